# SPDX-License-Identifier: Apache-2.0
"""Run all checks, each in a thread and with a deadline, so that a stuck check delays no other."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from ..addresses import Address, HybridAddress, UnixAddress, VsockAddress
from ..errors import ListenError
from ..remedies import is_lack_of_threads
from ..sockets.listener import in_local_vsock_namespace
from ..sockets.opening import Target, check_distinct, open_listeners, resolve
from ..sockets.syscalls import AF_VSOCK
from ..sockets.vsock import VSOCK_DEVICE
from . import probes, selftest, verdicts
from .verdicts import CheckResult, Finding, Verdict

_DEADLINE: Final = 10.0  # seconds


_Run = Callable[[], Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """A check to run."""

    name: str
    title: str
    run: _Run  # looks and judges; may block
    subject: str | None = None
    if_late: Verdict = Verdict.SKIPPED  # the verdict then, or without a descriptor


async def examine(addresses: Sequence[Address], max_pending: int) -> list[CheckResult]:
    """Examine this machine, and try to listen on some addresses.

    It listens on each address for a moment, as a server would. It connects only to a Unix socket of
    its own, and to the AF_VSOCK loopback.

    Args:
        addresses: Where a server is to listen. Their checks come first.
        max_pending: How many silent connections the server is to allow.

    Raises:
        UsageError: An address is named twice, or leaves its port open.

    **Checkpoints.** It takes at most :data:`_DEADLINE` seconds for each address, as long again to
    close them all, and as long again for all other checks. A cancellation waits for the current
    check, so that no file is left behind. A late check is abandoned in a thread that ends with the
    process. If no thread can be started, only the addresses are tried, and without a deadline.
    """
    _check_distinct(addresses)
    # First of all, because the other checks take descriptors that a server would have.
    listens = await _try_all(addresses)
    await trio.lowlevel.checkpoint_if_cancelled()
    needed = any(isinstance(address, VsockAddress) for address in addresses)
    checks = [*_vsock_checks(needed), *_other_checks(max_pending)]
    results: dict[str, CheckResult] = {}

    async def run(check: Check) -> None:
        results[check.name] = await _run(check)

    async with trio.open_nursery() as nursery:
        for check in checks:
            nursery.start_soon(run, check)
    await trio.lowlevel.checkpoint_if_cancelled()
    return [*listens, *(results[check.name] for check in checks)]


def _check_distinct(addresses: Sequence[Address]) -> None:
    """Reject an address that is named twice, also if once by its number and once by its name."""
    found: list[Target] = []
    for address in addresses:
        try:
            found.extend(resolve([address]))
        except ListenError:  # no socket has this name: the check of this address reports it
            found.append(address)
    check_distinct(found)


def _vsock_checks(needed: bool) -> Iterator[Check]:
    def optional(look: _Run) -> _Run:
        return look if needed else lambda: verdicts.unneeded(look())

    yield Check("python", "Python", optional(lambda: verdicts.judge_python(AF_VSOCK is not None)))
    yield Check("kernel", "kernel", optional(_look_at_kernel))
    for kind in verdicts.TRANSPORTS:
        look = optional(partial(_look_at_transport, kind))
        yield Check(f"transport-{kind}", f"{kind} transport", look)
    yield Check("local-cid", "local CID", lambda: verdicts.judge_local_cid(probes.local_cid()))
    for path in verdicts.DEVICES:
        yield Check(f"device-{path[5:].replace('_', '-')}", path, partial(_look_at_device, path))


def _look_at_kernel() -> Finding:
    return verdicts.judge_kernel(probes.vsock_socket(), probes.device(VSOCK_DEVICE))


def _look_at_transport(kind: str) -> Finding:
    seen = probes.transports()
    return verdicts.judge_transport(kind, seen, probes.modules(), in_local_vsock_namespace())


def _look_at_device(path: str) -> Finding:
    return verdicts.judge_device(path, probes.device(path))


def _other_checks(max_pending: int) -> Iterator[Check]:
    def look_at_descriptors() -> Finding:
        return verdicts.judge_descriptors(probes.descriptor_limit(), max_pending)

    def test_unix() -> Finding:
        return verdicts.judge_unix_heartbeat(selftest.beat_over_unix())

    def test_loopback() -> Finding:
        return verdicts.judge_loopback_heartbeat(selftest.beat_over_loopback())

    yield Check("descriptors", "open files", look_at_descriptors)
    yield Check("self-test-unix", "self-test, Unix", test_unix, None, Verdict.FAILED)
    yield Check("self-test-loopback", "self-test, CID 1", test_loopback, None, Verdict.WARNING)


async def _try_all(addresses: Sequence[Address]) -> list[CheckResult]:
    """Listen on all addresses at the same time, as a server does, and close them again."""
    with ExitStack() as closing:
        results: list[CheckResult] = []
        for address in addresses:
            look = partial(_try_to_listen, address, closing)
            check = Check("listen", "listen", look, str(address), Verdict.FAILED)
            results.append(await _run(check, fallback=look))  # a server needs no thread either
        close = closing.pop_all().close
        await _in_thread(close, fallback=close)
    return results


def _try_to_listen(address: Address, closing: ExitStack) -> Finding:
    try:
        (listener,) = open_listeners([address])
    except ListenError as error:
        is_taken = error.errno == errno.EADDRINUSE
        return verdicts.judge_listen(error, _holder(address) if is_taken else None)
    closing.callback(listener.close)
    return verdicts.LISTENS_LOCALLY if listener.is_isolated() else verdicts.LISTENS


def _holder(address: Address) -> str | None:
    """Which other process has an address that is taken, in words."""
    if isinstance(address, VsockAddress):
        return probes.suspects_of_port()
    if isinstance(address, UnixAddress | HybridAddress):
        return probes.holder_of_path(address.path)
    return None  # an inherited socket is already bound: no process can have taken it


async def _run(check: Check, fallback: _Run = lambda: verdicts.NO_THREAD) -> CheckResult:
    try:
        finding = await _in_thread(check.run, fallback)
    except OSError as error:  # also raised by an import that finds no descriptor
        finding = verdicts.judge_shortage(error, check.if_late)
    if finding is None:
        finding = Finding(check.if_late, f"it did not finish within {_DEADLINE:g} s")
    return CheckResult(check.name, check.title, check.subject, finding)


async def _in_thread(
    look: Callable[[], Finding | None], fallback: Callable[[], Finding | None]
) -> Finding | None:
    """Call a function in a thread; None if it misses the deadline.

    If no thread can be started, call the second function here instead, without a deadline.
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
