# SPDX-License-Identifier: Apache-2.0
"""What was seen, judged. Nothing here looks at the machine, so that each case can be tested."""

import errno
import os
from dataclasses import dataclass
from typing import Final

from ..addresses import CID_ANY
from ..errors import ListenError
from ..remedies import (
    LOOPBACK_CID,
    NO_AF_VSOCK,
    lack_error,
    remedy_for,
    vsock_advice,
    without_doctor,
)
from ..sockets.vsock import VSOCK_DEVICE
from .observing import HOST_CID, Device, LocalCid, Namespace, Transports
from .report import Finding, Verdict

__all__ = [
    "KINDS",
    "Kind",
    "judge_descriptors",
    "judge_device",
    "judge_kernel",
    "judge_lack",
    "judge_lack_of_threads",
    "judge_listen",
    "judge_local_cid",
    "judge_loopback_beat",
    "judge_namespace",
    "judge_python",
    "judge_seccomp",
    "judge_transport",
    "judge_unix_beat",
]

_FILTER: Final = 2  # SECCOMP_MODE_FILTER of linux/seccomp.h


def _missing(needed: bool) -> Verdict:
    return Verdict.FAILED if needed else Verdict.INFO


def judge_python(has_af_vsock: bool, needed: bool) -> Finding:
    """Whether Python knows AF_VSOCK, and whether a vsock address is asked for."""
    if has_af_vsock:
        return Finding(Verdict.OK, "it has socket.AF_VSOCK")
    return Finding(_missing(needed), *vsock_advice(NO_AF_VSOCK))


def judge_kernel(number: int, needed: bool, has_device: bool = False) -> Finding:
    """The errno of making an AF_VSOCK socket, and whether there is the device of its module."""
    if number == 0:
        return Finding(Verdict.OK, "it makes AF_VSOCK sockets")
    if number == errno.EPERM or (number == errno.EAFNOSUPPORT and has_device):
        return Finding(Verdict.SKIPPED, "cannot be told: making a socket is refused, see seccomp")
    reason, remedy = vsock_advice(number)
    return Finding(_missing(needed), reason, without_doctor(remedy))


def judge_seccomp(number: int, mode: int | None, needed: bool, has_device: bool = False) -> Finding:
    """The same again, with the seccomp mode of this process."""
    seen = {None: "its mode is hidden (/proc)", 0: "there is no filter", _FILTER: "a filter is set"}
    state = seen.get(mode, f"its mode is {mode}")
    if number == errno.EAFNOSUPPORT and has_device:
        evidence = f"{state}, AF_VSOCK is refused (EAFNOSUPPORT), though there is {VSOCK_DEVICE}"
        return Finding(_missing(needed), evidence, remedy_for("family refused"))
    if number and number != errno.EPERM and mode == _FILTER:
        why = errno.errorcode.get(number, number)
        return Finding(Verdict.SKIPPED, f"{state}, AF_VSOCK is refused ({why}), maybe by it")
    if number != errno.EPERM:
        return Finding(Verdict.OK, f"{state}, AF_VSOCK is not refused")
    _, remedy = vsock_advice(errno.EPERM)
    return Finding(_missing(needed), f"{state}, AF_VSOCK is refused (EPERM)", remedy)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of transport.

    Attributes:
        name: ``loopback``, ``guest`` or ``host``, also of its field in :class:`Transports`.
        what: Whose connections it brings, for people.
        modules: The kernel modules that can be one.
    """

    name: str
    what: str
    modules: tuple[str, ...]

    def errno(self, seen: Transports) -> int | None:
        """The errno that tells whether it is there, or None."""
        number: int | None = getattr(seen, self.name)
        return number


KINDS: Final = (
    Kind("loopback", "from this machine itself", ("vsock_loopback",)),
    Kind(
        "guest",
        "from this machine's hypervisor, as those of an EC2 instance's enclaves",
        ("vmw_vsock_virtio_transport", "hv_sock", "vmw_vsock_vmci_transport"),
    ),
    Kind("host", "from VMs on this machine", ("vhost_vsock", "vmw_vsock_vmci_transport")),
)


def judge_transport(kind: Kind, seen: Transports, needed: bool) -> Finding:
    """Whether a kind of transport is there, and if not, whether another one is."""
    number = kind.errno(seen)
    modules = "".join(f" (module {name})" for name in kind.modules if name in seen.modules)
    if number == 0:
        return Finding(Verdict.OK, f"there{modules}: connections {kind.what}")
    if number is None:
        return Finding(Verdict.SKIPPED, f"cannot be told without the local CID{modules}")
    if number != errno.EADDRNOTAVAIL:
        return Finding(Verdict.SKIPPED, f"cannot be told{modules}: {vsock_advice(number)[0]}")
    remedy = remedy_for(f"no {kind.name} transport")
    numbers = [each.errno(seen) for each in KINDS]
    if needed and all(each == errno.EADDRNOTAVAIL for each in numbers):
        return Finding(Verdict.WARNING, "missing, like all others: nobody can connect", remedy)
    return Finding(Verdict.INFO, f"missing{modules}: no connections {kind.what}", remedy)


def judge_local_cid(seen: LocalCid) -> Finding:
    """What /dev/vsock tells."""
    meaning = {
        LOOPBACK_CID: "CID 1: only the loopback",
        HOST_CID: "CID 2: a host of VMs",
        CID_ANY: "none, as no transport has one",
    }
    if seen.errno == 0:
        verdict = Verdict.INFO if seen.cid == CID_ANY else Verdict.OK
        return Finding(verdict, meaning.get(seen.cid, f"CID {seen.cid}"))
    why = f"{os.strerror(seen.errno)} ({errno.errorcode.get(seen.errno, 'unknown')})"
    return Finding(Verdict.SKIPPED, f"cannot be told: {VSOCK_DEVICE}: {why}")


_UNUSABLE: Final = {
    Device.FOR_GROUP: "device of a group",
    Device.FOR_OWNER: "device of its owner",
    Device.REFUSED: "device refused",
}


def judge_device(path: str, seen: Device) -> Finding:
    """What is found where a device should be."""
    if seen is Device.USABLE:
        return Finding(Verdict.OK, seen.value)
    condition = _UNUSABLE.get(seen, f"no {path}")
    return Finding(Verdict.INFO, seen.value, remedy_for(condition, path=path))


def judge_namespace(number: int, seen: Namespace, needed: bool) -> Finding:
    """Whose vsock this network namespace has, and the errno of making an AF_VSOCK socket in it."""
    match seen:
        case Namespace("local"):
            verdict = Verdict.WARNING if needed else Verdict.INFO
            evidence = "local: only what is in this network namespace can connect"
            return Finding(verdict, evidence, remedy_for("local namespace"))
        case Namespace("global"):
            return Finding(Verdict.OK, "global: CIDs and ports are those of the whole machine")
        case Namespace(None, True) if number == errno.EAFNOSUPPORT:
            return Finding(Verdict.SKIPPED, vsock_advice(number)[0])
        case Namespace(None, True) if number:
            return Finding(Verdict.SKIPPED, f"cannot be told: {vsock_advice(number)[0]}")
        case Namespace(None, True):
            evidence = "global: this kernel has no others (Linux 7.0 and later have)"
            return Finding(Verdict.OK, evidence)
        case Namespace(None):
            return Finding(Verdict.SKIPPED, "cannot be told: /proc/sys/net is hidden")
        case Namespace(mode):
            return Finding(Verdict.SKIPPED, f"cannot be told: the kernel says {mode!a}")


def judge_descriptors(soft: float, hard: float, max_pending: int) -> Finding:
    """Whether there can be as many connections as ``--max-pending`` allows."""
    evidence = f"{_count(soft)} may be open, --max-pending is {max_pending}"
    if soft >= max_pending:
        return Finding(Verdict.OK, evidence)
    evidence += f" (this user may raise it to {_count(hard)})" if hard > soft else ""
    wanted = max_pending + 64  # and the listeners, and what the process itself has open
    return Finding(Verdict.WARNING, evidence, remedy_for("few descriptors", wanted=wanted))


def _count(number: float) -> str:
    return "any number" if number == float("inf") else f"{number:.0f}"


def judge_lack(error: OSError, asked_for: bool) -> Finding:
    """A check that lacked a descriptor, and whether it is about an address that is asked for.

    Raises:
        OSError: It lacked something else.
    """
    if error.errno is None or not lack_error(error.errno):
        raise error
    reason, remedy = vsock_advice(error.errno)
    if asked_for:
        return Finding(Verdict.FAILED, reason, remedy)
    return Finding(Verdict.SKIPPED, f"cannot be told: {reason}", remedy)


def judge_lack_of_threads() -> Finding:
    """A check that is made in a thread only, since it may hang."""
    evidence = "cannot be told: no thread can be started"
    return Finding(Verdict.WARNING, evidence, remedy_for("no thread"))


def judge_listen(error: ListenError | None, holder: str | None) -> Finding:
    """How listening on an address went, and who has it if somebody has."""
    if error is None:
        return Finding(Verdict.OK, "it can be listened on (tried, and undone)")
    held = f"; {holder}" if holder else ""
    return Finding(Verdict.FAILED, f"{error.reason}{held}", without_doctor(error.remedy))


def judge_unix_beat(seen: float | str | OSError) -> Finding:
    """The seconds that a heartbeat took, or what went wrong; OSError: there was no place for it."""
    if isinstance(seen, OSError) and seen.errno is not None and lack_error(seen.errno):
        return Finding(Verdict.WARNING, *vsock_advice(seen.errno))
    if isinstance(seen, OSError):
        evidence = f"there is no place for its socket: {seen.strerror or seen}"
        remedy = remedy_for("no temporary directory", command="doctor")
        return Finding(Verdict.WARNING, evidence, remedy)
    return _beat(seen, Verdict.FAILED, "heartbeat unanswered")


def judge_loopback_beat(seen: float | str | OSError) -> Finding:
    """The same over CID 1; OSError: of a socket that is to be bound to it."""
    if isinstance(seen, OSError) and seen.errno == errno.EADDRNOTAVAIL:
        return Finding(Verdict.SKIPPED, "there is no loopback transport")
    if isinstance(seen, OSError):
        return Finding(Verdict.SKIPPED, f"cannot be told: {vsock_advice(seen.errno or 0)[0]}")
    return _beat(seen, Verdict.WARNING, "loopback unanswered")


def _beat(seen: float | str, bad: Verdict, condition: str) -> Finding:
    if isinstance(seen, str):
        return Finding(bad, f"a heartbeat was not answered: {seen}", remedy_for(condition))
    return Finding(Verdict.OK, f"a heartbeat was answered in {seen * 1000:.1f} ms")
