# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve``: listen first, load later, answer, report."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial

from ..errors import UsageError
from . import exits
from .levels import WARNING
from .limits import time_limit
from .listening import listening

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..server import OnEvent
    from ..sockets.listener import Listener
    from .api import Api
    from .console import Console
    from .stop import Stop

__all__ = ["serve"]


def serve(args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Listen, answer, and report, until every address is answered or the time is up."""
    timeout = time_limit(args)
    _check_api(args)
    # An enclave that boots while Python still loads trio must find the port open: so listen with
    # what is loaded already, and import the rest afterwards.
    with listening(args) as listeners, ExitStack() as closing:
        api: Api | None = None
        if args.api is not None:
            from .api import open_api

            api = open_api(args, [listener.address for listener in listeners], closing)
        return _answer(listeners, api, timeout, args, console, stop)


def _check_api(args: argparse.Namespace) -> None:
    if args.api is not None:
        from .api import check

        check(args)
        return
    modes = (args.api_mode, args.api_group)
    if modes != (None, None) or args.api_allow_remote or args.api_host:
        raise UsageError("the options that begin with --api- are of no use without --api")


def _answer(
    listeners: Sequence[Listener],
    api: Api | None,
    timeout: float,
    args: argparse.Namespace,
    console: Console,
    stop: Stop,
) -> int:
    import trio

    from .answering import answer, informing, printing_events, report_to
    from .explaining import explain_timeout
    from .hints import Hints
    from .manager import find_manager
    from .waiting import waiting

    warn = partial(console.say, level=WARNING)
    hints = Hints(warn, args.allow_cids)
    manager = find_manager(warn)
    # Events that nobody sees, and that --timeout need not explain, are not even made.
    nobody = not console.is_terminal and manager is None
    unseen = (args.quiet or args.log_level == "error") and timeout == math.inf and nobody
    unneeded = unseen and args.allow_cids is None

    async def answer_all(on_event: OnEvent) -> None:
        if api is None:
            await answer(listeners, args, None if unneeded else on_event)
            return
        async with api() as backend:
            hints.awaits_cid = backend.awaits_cid
            await answer(listeners, args, backend.before(on_event), task_status=backend)

    async def run() -> int:
        async with printing_events(console.print, args, to_journal=console.out_is_journal) as show:
            reporter = report_to(show, hints, args)
            with trio.move_on_after(timeout) as deadline:
                async with (
                    waiting(console, reporter.awaited),
                    informing(
                        manager, reporter, lambda: reporter.listening() == len(listeners)
                    ) as on_event,
                ):
                    await answer_all(hints if unseen else on_event)
        if not deadline.cancelled_caught:
            return exits.DONE
        explain_timeout(reporter, timeout, console)
        return exits.TIMED_OUT

    return stop.run(run)
