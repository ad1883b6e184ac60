# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve``: listen first, load later, answer, report."""

from __future__ import annotations

import math
from contextlib import ExitStack

from ..addresses import (
    CID_ANY,
    Address,
    HybridAddress,
    InheritedSocket,
    UnixAddress,
    VsockAddress,
)
from ..listeners import Listener, open_listeners, require_cids
from . import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from ..api.backend import Backend
    from ..events import Event
    from .console import Console
    from .stop import Stop

__all__ = ["serve"]


def serve(args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Listen, answer, and report, until every address is answered or the time is up."""
    addresses: list[Address] = args.listen or [_default()]
    if args.allow_cids is not None:
        require_cids(addresses)
    if args.api is not None:
        from .api import check

        check(args)
    with ExitStack() as closing:
        # An enclave that boots while Python still loads trio must find the port open: so listen
        # with what is loaded already, and import the rest afterwards.
        listeners = open_listeners(
            addresses, socket_mode=args.socket_mode, socket_group=args.socket_group
        )
        for listener in listeners:
            closing.callback(listener.close)
        api: Callable[[], AbstractAsyncContextManager[Backend]] | None = None
        if args.api is not None:
            from .api import open_api

            api = open_api(args, [listener.address for listener in listeners], closing)
        return _answer(listeners, api, args, console, stop)


def _default() -> Address:
    from ..protocol import HEARTBEAT_PORT  # here, for those who name where to listen

    return VsockAddress(CID_ANY, HEARTBEAT_PORT)


def _answer(
    listeners: Sequence[Listener],
    api: Callable[[], AbstractAsyncContextManager[Backend]] | None,
    args: argparse.Namespace,
    console: Console,
    stop: Stop,
) -> int:
    from functools import partial

    import trio

    from ..server import OnEvent, serve_heartbeat
    from .printing import printing
    from .report import Reporter, to_json, to_text
    from .waiting import waiting

    to_line = to_json if args.format == "json" else to_text
    # Events that nobody sees, and that --timeout need not explain, are not even made.
    unseen = args.quiet and args.timeout == math.inf and not console.is_terminal

    async def answer_heartbeats(on_event: OnEvent | None) -> None:
        serve = partial(
            serve_heartbeat,
            *listeners,
            once=not args.keep,
            allow_cids=args.allow_cids,
            any_byte=args.any_byte,
            handshake_timeout=args.handshake_timeout,
            max_pending=args.max_pending,
        )
        if api is None:
            await serve(on_event=on_event)
            return
        async with api() as backend:
            await serve(on_event=backend.before(on_event), task_status=backend)

    async def answer(show: Callable[[Event], object]) -> Iterable[tuple[Address, str]] | None:
        """Answer; on a time-out return what came instead of heartbeats, by address."""
        reporter = Reporter((lambda event: None) if args.quiet else show)
        with trio.move_on_after(args.timeout) as deadline:
            async with waiting(console, reporter.awaited):
                await answer_heartbeats(None if unseen else reporter)
        return reporter.unheard() if deadline.cancelled_caught else None

    async def run() -> int:
        async with printing(console.print, to_line) as show:
            unheard = await answer(show)
        if unheard is None:
            return exits.DONE
        _explain_all(list(unheard), args.timeout, console)
        return exits.TIMED_OUT

    return stop.run(run)


def _explain_all(unheard: Sequence[tuple[Address, str]], timeout: float, console: Console) -> None:
    if not unheard:  # only with --keep
        console.say(f"nitrohb: the time is up, after {timeout:g} s")
    for address, seen in unheard:
        console.say(_explain(address, seen, timeout))


def _explain(address: Address, seen: str, timeout: float) -> str:
    """Say why there was no heartbeat at an address, as far as that can be known from here."""
    outcome = f"nitrohb: no heartbeat on {address} within {timeout:g} s: "
    if seen:
        return f"{outcome}of the connections that came, {seen}"
    return (
        f"{outcome}nobody connected\n"
        f"Does the enclave run, and do its connections arrive here?{_how_to_try(address)}"
    )


def _how_to_try(address: Address) -> str:
    from ..protocol import PARENT_CID

    match address:
        case VsockAddress(cid, port):
            parent = VsockAddress(PARENT_CID if cid == CID_ANY else cid, port)
            return f" To try it out, inside the enclave: nitrohb send {parent}"
        case UnixAddress() | HybridAddress():
            return f" To try this side, on this machine: nitrohb send {address}"
        case InheritedSocket():
            return ""  # whoever passed it in knows where it listens
