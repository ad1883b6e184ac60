# SPDX-License-Identifier: Apache-2.0
"""Runs all checks, each in a thread, with a deadline: a stuck check does not delay others."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from ..addresses import CID_ANY, Address, HybridAddress, UnixAddress, VsockAddress
from ..errors import ListenError
from ..remedies import is_lack_of_threads, who_may_connect
from ..sockets.listener import Listener
from ..sockets.opening import Target, check_distinct, open_listeners, resolve, where_bound
from . import probes, selftest, verdicts
from .verdicts import CIDS, CheckResult, Endpoint, Finding, Verdict

_DEADLINE: Final = 10.0  # seconds

_Run = Callable[[], Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """A check to run."""

    name: str
    title: str
    run: _Run  # looks and judges; might block
    subject: str | None = None
    if_late: Verdict = Verdict.SKIPPED  # the verdict if it is late or lacks a descriptor


async def examine(
    addresses: Sequence[Address],
    max_pending: int,
    *,
    kind: str | None = None,
    socket_mode: int = 0o600,
    socket_group: int | None = None,
) -> list[CheckResult]:
    """Return what each check found: can the heartbeat of an enclave arrive at some addresses?

    It listens on each address for a moment, as a server would. It connects only to its own
    temporary Unix socket.

    Args:
        addresses: Where a server will listen. Their checks come first in the result.
        max_pending: The maximum number of silent connections that the server will allow.
        kind: The kind of the enclave, a key of ``verdicts.KINDS``.
        socket_mode: Permission bits of the socket files of the server.
        socket_group: Numeric group of the socket files of the server.

    Raises:
        UsageError: An address is named twice, or does not name a port.

    **Checkpoints.** Each check of an address takes at most 10 s. Closing all addresses takes at
    most 10 s, and so do all other checks together. A cancellation waits for the current check, and
    leaves no file. A late check is abandoned in a thread that ends with the process. If no thread
    can be started, only the addresses are checked, without a deadline.
    """
    _check_distinct(addresses)
    # First, because the other checks use descriptors that a server would have.
    open_one = partial(open_listeners, socket_mode=socket_mode, socket_group=socket_group)
    tried = await _try_all(addresses, open_one, kind)
    await trio.lowlevel.checkpoint_if_cancelled()
    checks = [*_checks(max_pending, kind)]
    results: dict[str, CheckResult] = {}

    async def run(check: Check) -> None:
        results[check.name] = await _run(check)

    async with trio.open_nursery() as nursery:
        for check in checks:
            nursery.start_soon(run, check)
    await trio.lowlevel.checkpoint_if_cancelled()
    return [*tried, *(results[check.name] for check in checks)]


def _check_distinct(addresses: Sequence[Address]) -> None:
    """Reject an address that is named twice, and a descriptor named by its number and its name."""
    found: list[Target] = []
    for address in addresses:
        try:
            found.extend(resolve([address]))
        except ListenError:  # no socket has this name: the check of the address reports it
            found.append(address)
    check_distinct(found)


def _checks(max_pending: int, kind: str | None) -> Iterator[Check]:
    def look_at_enclaves() -> Finding:
        return verdicts.judge_enclaves(probes.enclaves())

    def look_at_descriptors() -> Finding:
        return verdicts.judge_descriptors(probes.descriptor_limit(), max_pending)

    def test_unix() -> Finding:
        return verdicts.judge_heartbeat(selftest.beat_over_unix())

    if kind in (None, "nitro"):
        yield Check("device-nitro-enclaves", "/dev/nitro_enclaves", look_at_enclaves)
    yield Check("descriptors", "open files", look_at_descriptors)
    yield Check("self-test-unix", "self-test, Unix", test_unix, None, Verdict.FAILED)


_Open = Callable[[list[Address]], list[Listener]]


async def _try_all(
    addresses: Sequence[Address], open_one: _Open, kind: str | None
) -> list[CheckResult]:
    """Listen on all addresses at the same time, as a server does, and close them again."""
    ends: dict[str, Endpoint] = {}
    with ExitStack() as closing:
        results: list[CheckResult] = []
        for address in addresses:
            look = partial(_try_to_listen, address, open_one, closing, ends)
            check = Check("listen", "listen", look, str(address), Verdict.FAILED)
            results.append(await _run(check, fallback=look))  # a server needs no thread either
        close = closing.pop_all().close
        await _in_thread(close, fallback=close)
    for subject, end in ends.items():
        look = partial(_look_at_reach, kind, end)
        results.append(await _run(Check("reach", "reach", look, subject), fallback=look))
    return results


def _try_to_listen(
    address: Address, open_one: _Open, closing: ExitStack, ends: dict[str, Endpoint]
) -> Finding:
    try:
        (listener,) = open_one([address])
    except ListenError as error:
        is_taken = error.errno == errno.EADDRINUSE
        return verdicts.judge_listen(error, _holder(address) if is_taken else None)
    closing.callback(listener.close)
    ends[str(address)] = _end(listener)
    return verdicts.LISTENS


def _end(listener: Listener) -> Endpoint:
    bound = where_bound(listener)
    if isinstance(bound, VsockAddress):
        return Endpoint(bound.cid, listener.is_isolated(), None)
    access: tuple[str, str | None] = ("its socket has no file", None)
    if isinstance(bound, UnixAddress | HybridAddress):
        with suppress(OSError):  # another process has deleted it
            access = who_may_connect(bound.path)
    return Endpoint(CID_ANY, False, access)


def _look_at_reach(kind: str | None, end: Endpoint) -> Finding:
    # Only for AF_VSOCK, because opening such a socket can load kernel modules.
    seen = {cid: probes.bind_errno(cid) for cid in CIDS} if end.access is None else {}
    return verdicts.judge_reach(kind, end, seen, probes.enclaves())


def _holder(address: Address) -> str | None:
    """Return, in words, which other process has an address that is taken."""
    if isinstance(address, VsockAddress):
        return probes.suspects_of_port()
    if isinstance(address, UnixAddress | HybridAddress):
        return probes.holder_of_path(address.path)
    return None  # an inherited socket is already bound: no process can have taken it


async def _run(check: Check, fallback: _Run = lambda: verdicts.NO_THREAD) -> CheckResult:
    try:
        finding = await _in_thread(check.run, fallback)
    except OSError as error:  # an import raises it, too, for lack of a descriptor
        finding = verdicts.judge_shortage(error, check.if_late)
    if finding is None:
        finding = Finding(check.if_late, f"it did not finish within {_DEADLINE:g} s")
    return CheckResult(check.name, check.title, check.subject, finding)


async def _in_thread(
    look: Callable[[], Finding | None], fallback: Callable[[], Finding | None]
) -> Finding | None:
    """Return the result of a function that runs in a thread, or None after the deadline.

    If no thread can be started, call ``fallback`` here instead, without a deadline.
    """
    # Shielded, because a socket file might exist by now.
    with trio.move_on_after(_DEADLINE, shield=True):
        try:
            return await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        except RuntimeError as error:
            if not is_lack_of_threads(error):
                raise
            return fallback()
    return None
