# SPDX-License-Identifier: Apache-2.0
"""Make all checks, each in a thread and with a deadline: one that hangs delays no other."""

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
from ..sockets.opening import Target, check_distinct, open_listeners, resolve
from ..sockets.vsock import VSOCK_DEVICE
from ..sockets.wire import AF_VSOCK
from . import judging, observing, selftest
from .holders import holder_of_path, holder_of_port
from .report import Check, Finding, Report, Verdict

__all__ = ["examine"]

_DEADLINE: Final = 10.0  # seconds

_DEVICES: Final = (VSOCK_DEVICE, "/dev/vhost-vsock", "/dev/nitro_enclaves")


@dataclass(frozen=True, slots=True)
class Step:
    """A check that is to be made.

    Attributes:
        name: Its name for programs.
        title: Its name for people.
        look: Looks and judges; may block.
        subject: The address that it is about, or None.
        overdue: The verdict if it does not come to an end.
    """

    name: str
    title: str
    look: Callable[[], Finding]
    subject: str | None = None
    overdue: Verdict = Verdict.SKIPPED


async def examine(addresses: Sequence[Address], max_pending: int) -> Report:
    """Find out what this machine can do for heartbeats, and whether some addresses can be used.

    It listens on each address for a moment, as a server would. It connects to a Unix socket of its
    own, and by AF_VSOCK to the loopback at most.

    Args:
        addresses: Where somebody wants to listen.
        max_pending: How many silent connections are to be possible.

    Returns:
        What was found, the addresses first.

    Raises:
        UsageError: An address is named twice, or leaves its port open.

    **Checkpoints.** It takes :data:`_DEADLINE` seconds at most for an address, as much again to
    close them all, and then as much again for all else. A cancellation waits for what it is at, so
    that no file is left behind. What hangs for longer is abandoned, in a thread that ends with the
    process. Where no thread can be started, addresses are tried without one, and so without a
    deadline, and all else cannot be told.
    """
    _check_distinct(addresses)
    # Before all else, which takes descriptors that a server would have.
    listens = await _listen(addresses)
    await trio.lowlevel.checkpoint_if_cancelled()
    needed = any(isinstance(address, VsockAddress) for address in addresses)
    steps = [*_vsock_steps(needed), *_other_steps(max_pending)]
    made: dict[int, Check] = {}

    async def make(index: int) -> None:
        made[index] = await _make(steps[index])

    async with trio.open_nursery() as nursery:
        for index in range(len(steps)):
            nursery.start_soon(make, index)
    await trio.lowlevel.checkpoint_if_cancelled()
    return Report([*listens, *(made[index] for index in range(len(steps)))])


def _check_distinct(addresses: Sequence[Address]) -> None:
    """Refuse an address that is named twice, be it in other words, or by a number and a name."""
    found: list[Target] = []
    for address in addresses:
        try:
            found.extend(resolve([address]))
        except ListenError:  # no socket of its name: its check is to say that
            found.append(address)
    check_distinct(found)


def _vsock_steps(needed: bool) -> Iterator[Step]:
    yield Step("python", "Python", lambda: judging.judge_python(AF_VSOCK is not None, needed))
    yield Step("kernel", "kernel", lambda: _look_at_kernel(needed))
    yield Step("seccomp", "seccomp", lambda: _look_at_seccomp(needed))
    for kind in judging.KINDS:
        look = partial(_look_at_transport, kind, needed)
        yield Step(f"transport-{kind.name}", f"{kind.name} transport", look)
    yield Step("local-cid", "local CID", lambda: judging.judge_local_cid(observing.local_cid()))
    for path in _DEVICES:
        yield Step(f"device-{path[5:].replace('_', '-')}", path, partial(_look_at_device, path))
    yield Step(
        "namespace",
        "vsock namespace",
        # The socket first: the kernel may load the module for it that has the sysctl.
        lambda: judging.judge_namespace(observing.vsock_socket(), observing.namespace(), needed),
    )


def _other_steps(max_pending: int) -> Iterator[Step]:
    yield Step(
        "descriptors",
        "open files",
        lambda: judging.judge_descriptors(*observing.descriptor_limits(), max_pending),
    )
    yield Step(
        "self-test-unix",
        "self-test, Unix",
        lambda: judging.judge_unix_beat(selftest.beat_over_unix()),
        overdue=Verdict.FAILED,
    )
    yield Step(
        "self-test-loopback",
        "self-test, CID 1",
        lambda: judging.judge_loopback_beat(selftest.beat_over_loopback()),
        overdue=Verdict.WARNING,
    )


def _look_at_kernel(needed: bool) -> Finding:
    return judging.judge_kernel(observing.vsock_socket(), needed, _has_vsock_device())


def _look_at_seccomp(needed: bool) -> Finding:
    number, mode = observing.vsock_socket(), observing.seccomp_mode()
    return judging.judge_seccomp(number, mode, needed, _has_vsock_device())


def _has_vsock_device() -> bool:
    absent = (observing.Device.MISSING, observing.Device.OTHER)
    return observing.device(VSOCK_DEVICE) not in absent


def _look_at_transport(kind: judging.Kind, needed: bool) -> Finding:
    return judging.judge_transport(kind, observing.transports(), needed)


def _look_at_device(path: str) -> Finding:
    return judging.judge_device(path, observing.device(path))


async def _listen(addresses: Sequence[Address]) -> list[Check]:
    """Try the addresses together, as a server has them, and give them back."""
    with ExitStack() as closing:
        steps = [_listen_step(address, closing) for address in addresses]
        # A server needs no thread for that.
        checks = [await _make(step, without_thread=step.look) for step in steps]
        close = closing.pop_all().close
        await _in_time(close, without_thread=close)
    return checks


def _listen_step(address: Address, closing: ExitStack) -> Step:
    look = partial(_try_to_listen, address, closing)
    return Step("listen", "listen", look, str(address), Verdict.FAILED)


def _try_to_listen(address: Address, closing: ExitStack) -> Finding:
    try:
        (listener,) = open_listeners([address])
    except ListenError as error:
        taken = error.errno == errno.EADDRINUSE
        return judging.judge_listen(error, _holder(address) if taken else None)
    closing.callback(listener.close)
    return judging.judge_listen(None, None)


def _holder(address: Address) -> str | None:
    """Which other process has an address that is taken."""
    if isinstance(address, VsockAddress):
        return holder_of_port(address.port, address.cid)
    if isinstance(address, UnixAddress | HybridAddress):
        return holder_of_path(address.path)
    return None  # an inherited socket is bound already: nobody can have taken it


async def _make(
    step: Step, without_thread: Callable[[], Finding] = judging.judge_lack_of_threads
) -> Check:
    try:
        finding = await _in_time(step.look, without_thread)
    except OSError as error:  # of loading a module that has more to say, if nothing else
        finding = judging.judge_lack(error, asked_for=step.subject is not None)
    if finding is None:
        finding = Finding(step.overdue, f"did not come to an end within {_DEADLINE:g} s")
    return Check(step.name, step.title, step.subject, finding)


async def _in_time(
    look: Callable[[], Finding | None], without_thread: Callable[[], Finding | None]
) -> Finding | None:
    """Look in a thread; None if that does not come to an end in time.

    Where no thread can be started, the second function is called instead, for as long as it takes.
    """
    # Not cancelled before: it may have a socket file by now.
    with trio.move_on_after(_DEADLINE, shield=True):
        try:
            return await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        except RuntimeError as error:
            if not is_lack_of_threads(error):
                raise
            return without_thread()
    return None
