# SPDX-License-Identifier: Apache-2.0
"""What a finding is, and the verdict on everything that a probe can see.

Nothing here looks at the machine, so that a test can judge any machine.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from ..addresses import CID_ANY
from ..errors import ListenError
from ..remedies import LOOPBACK_CID, NO_AF_VSOCK, descriptor_shortage, vsock_advice
from ..sockets.vsock import VSOCK_DEVICE
from .probes import HOST_CID, Device, LocalCid, Namespace, Transports

__all__ = [
    "DEVICES",
    "KINDS",
    "Check",
    "Finding",
    "Kind",
    "Report",
    "Verdict",
    "judge_descriptors",
    "judge_device",
    "judge_kernel",
    "judge_listen",
    "judge_local_cid",
    "judge_loopback_heartbeat",
    "judge_namespace",
    "judge_python",
    "judge_seccomp",
    "judge_shortage",
    "judge_thread_shortage",
    "judge_transport",
    "judge_unix_heartbeat",
]


class Verdict(StrEnum):
    """What a check means for a heartbeat server on this machine."""

    OK = "ok"
    INFO = "info"  # it is missing, and only some need it
    WARNING = "warning"  # listening works, but heartbeats might not arrive
    FAILED = "failed"  # the server could not work
    SKIPPED = "skipped"  # unknown


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and its reason.

    Attributes:
        verdict: The verdict.
        evidence: What was seen, in words.
        remedy: What to do about it, in words, or None if there is nothing to do.
    """

    verdict: Verdict
    evidence: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A check and what it found.

    Attributes:
        name: Its name for programs, which does not change.
        title: Its name for people.
        subject: The address that it is about, or None.
        finding: What it found.
    """

    name: str
    title: str
    subject: str | None
    finding: Finding

    def to_json(self) -> dict[str, str | None]:
        """The check as an object for JSON."""
        return {"name": self.name, "subject": self.subject, **asdict(self.finding)}


@dataclass(frozen=True, slots=True)
class Report:
    """All checks.

    Attributes:
        checks: The checks, in the order in which to read them.
    """

    checks: Sequence[Check]

    @property
    def overall(self) -> Verdict:
        """The worst verdict: failed, warning, or else ok."""
        verdicts = {check.finding.verdict for check in self.checks}
        grave = (verdict for verdict in (Verdict.FAILED, Verdict.WARNING) if verdict in verdicts)
        return next(grave, Verdict.OK)


def _missing(needed: bool) -> Verdict:
    return Verdict.FAILED if needed else Verdict.INFO


def _unknown(why: str) -> Finding:
    return Finding(Verdict.SKIPPED, f"unknown: {why}")


def judge_listen(error: ListenError | None, holder: str | None) -> Finding:
    """Judge an attempt to listen on an address, and which process holds it if any does."""
    if error is None:
        return Finding(Verdict.OK, "nitrohb can listen there (tried and undone)")
    held = f"; {holder}" if holder else ""
    return Finding(Verdict.FAILED, f"{error.reason}{held}", error.remedy)


def judge_python(has_af_vsock: bool, needed: bool) -> Finding:
    """Judge whether Python supports AF_VSOCK; ``needed`` if an address is a vsock address."""
    if has_af_vsock:
        return Finding(Verdict.OK, "it has socket.AF_VSOCK")
    return Finding(_missing(needed), *vsock_advice(NO_AF_VSOCK))


def judge_kernel(number: int, needed: bool, has_device: bool = False) -> Finding:
    """Judge the errno of making an AF_VSOCK socket, and whether /dev/vsock exists."""
    if number == 0:
        return Finding(Verdict.OK, "it makes AF_VSOCK sockets")
    if number == errno.EPERM or (number == errno.EAFNOSUPPORT and has_device):
        return _unknown("AF_VSOCK sockets are refused, see seccomp")
    return Finding(_missing(needed), *vsock_advice(number))


_FILTER: Final = 2  # SECCOMP_MODE_FILTER of linux/seccomp.h


def judge_seccomp(number: int, mode: int | None, needed: bool, has_device: bool = False) -> Finding:
    """Judge the errno of making an AF_VSOCK socket by the seccomp mode of this process."""
    seen = {None: "its mode is hidden (/proc)", 0: "there is no filter", _FILTER: "a filter is set"}
    state = seen.get(mode, f"its mode is {mode}")
    if number == errno.EAFNOSUPPORT and has_device:
        evidence = f"{state}, AF_VSOCK is refused (EAFNOSUPPORT) although {VSOCK_DEVICE} exists"
        remedy = (
            "Add AF_VSOCK to RestrictAddressFamilies= of the systemd unit, or allow it in the"
            " seccomp profile."
        )
        return Finding(_missing(needed), evidence, remedy)
    if number == errno.EPERM:
        evidence = f"{state}, AF_VSOCK is refused (EPERM)"
        return Finding(_missing(needed), evidence, vsock_advice(number)[1])
    if number and mode == _FILTER:
        why = errno.errorcode.get(number, number)
        evidence = f"{state}, AF_VSOCK is refused ({why}), perhaps by that filter"
        return Finding(Verdict.SKIPPED, evidence)
    return Finding(Verdict.OK, f"{state}, AF_VSOCK is not refused")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of transport.

    Attributes:
        name: ``loopback``, ``guest`` or ``host``, which is also its field in :class:`Transports`.
        what: Whose connections it carries, in words.
        modules: The kernel modules that implement it.
        remedy: Who needs it, and how to get it.
    """

    name: str
    what: str
    modules: tuple[str, ...]
    remedy: str

    def errno(self, seen: Transports) -> int | None:
        """The errno that says whether it is present, or None."""
        number: int | None = getattr(seen, self.name)
        return number


KINDS: Final = (
    Kind(
        "loopback",
        "from this machine itself",
        ("vsock_loopback",),
        "Load it if connections come over CID 1, as with QEMU -M nitro-enclave and forward-cid=1:"
        " modprobe vsock_loopback",
    ),
    Kind(
        "guest",
        "from the hypervisor of this machine (on EC2: from its enclaves)",
        ("vmw_vsock_virtio_transport", "hv_sock", "vmw_vsock_vmci_transport"),
        "Load it on an EC2 instance that starts enclaves: modprobe vmw_vsock_virtio_transport",
    ),
    Kind(
        "host",
        "from VMs on this machine",
        ("vhost_vsock", "vmw_vsock_vmci_transport"),
        "Load it for VMs with a vhost-vsock device: modprobe vhost_vsock",
    ),
)


def judge_transport(kind: Kind, seen: Transports, needed: bool) -> Finding:
    """Judge whether a kind of transport is present, or any other kind instead."""
    number = kind.errno(seen)
    modules = "".join(f" (module {name})" for name in kind.modules if name in seen.modules)
    if number == 0:
        return Finding(Verdict.OK, f"present{modules}: connections {kind.what}")
    if number is None:
        return _unknown(f"this machine does not tell its local CID{modules}")
    if number != errno.EADDRNOTAVAIL:
        return _unknown(f"{vsock_advice(number)[0]}{modules}")
    if needed and all(each.errno(seen) == errno.EADDRNOTAVAIL for each in KINDS):
        return Finding(Verdict.WARNING, "missing, like all others: no connections", kind.remedy)
    return Finding(Verdict.INFO, f"missing{modules}: no connections {kind.what}", kind.remedy)


def judge_local_cid(seen: LocalCid) -> Finding:
    """Judge what /dev/vsock returns."""
    meaning = {
        LOOPBACK_CID: "CID 1: only the loopback",
        HOST_CID: "CID 2: a host of VMs",
        CID_ANY: "none, because no transport has one",
    }
    if seen.errno == 0:
        verdict = Verdict.INFO if seen.cid == CID_ANY else Verdict.OK
        return Finding(verdict, meaning.get(seen.cid, f"CID {seen.cid}"))
    name = errno.errorcode.get(seen.errno, "unknown")
    return _unknown(f"{VSOCK_DEVICE}: {os.strerror(seen.errno)} ({name})")


DEVICES: Final = {
    VSOCK_DEVICE: (
        "Load its module (modprobe vsock), or pass the device in to a container (--device"
        " /dev/vsock). nitrohb only reads the local CID from it."
    ),
    "/dev/vhost-vsock": (
        "Load its module for vhost-vsock devices of QEMU (vhost-device-vsock does not need it):"
        " modprobe vhost_vsock"
    ),
    "/dev/nitro_enclaves": (
        "To start real enclaves, use an EC2 instance with enclaves enabled, and load its module:"
        " modprobe nitro_enclaves"
    ),
}

_UNUSABLE: Final = {
    Device.FOR_GROUP: (
        "If this user needs it, add them to the group of the device (ls -l {path}), or run as root."
    ),
    Device.FOR_OWNER: (
        "If this user needs it, give the device a group of theirs (chgrp GROUP {path}) and mode"
        " 0660, permanently by a udev rule. Or run as root."
    ),
    Device.REFUSED: (
        "For a container, pass it in (--device {path}). Otherwise allow it in the policy of the"
        " security module (SELinux, AppArmor)."
    ),
}


def judge_device(path: str, seen: Device) -> Finding:
    """Judge the state of a device."""
    if seen is Device.USABLE:
        return Finding(Verdict.OK, seen.value)
    remedy = _UNUSABLE[seen].format(path=path) if seen in _UNUSABLE else DEVICES[path]
    return Finding(Verdict.INFO, seen.value, remedy)


def judge_namespace(number: int, seen: Namespace, needed: bool) -> Finding:
    """Judge the vsock of this network namespace, and the errno of making a socket in it."""
    match seen:
        case Namespace("local"):
            verdict = Verdict.WARNING if needed else Verdict.INFO
            evidence = "local: only clients in this network namespace can connect"
            remedy = (
                "Run nitrohb in the network namespace of the VMM. For real enclaves, run it in that"
                " of the host (for a container: --network host)."
            )
            return Finding(verdict, evidence, remedy)
        case Namespace("global"):
            return Finding(Verdict.OK, "global: it shares CIDs and ports with the whole machine")
        case Namespace(None, True) if number:
            return _unknown(vsock_advice(number)[0])
        case Namespace(None, True):
            return Finding(Verdict.OK, "global: only Linux 7.0 and later have others")
        case Namespace(None):
            return _unknown("/proc/sys/net is hidden")
        case Namespace(mode):
            return _unknown(f"the kernel says {mode!a}")


def judge_descriptors(soft: float, hard: float, max_pending: int) -> Finding:
    """Judge whether the limit of open files allows ``--max-pending`` connections."""
    evidence = f"{_count(soft)} may be open, --max-pending is {max_pending}"
    if soft >= max_pending:
        return Finding(Verdict.OK, evidence)
    evidence += f" (this user may raise it to {_count(hard)})" if hard > soft else ""
    wanted = max_pending + 64  # and the listeners, and the other files of the process
    remedy = (
        f"Raise the limit (ulimit -n {wanted}, or LimitNOFILE={wanted} in a systemd unit), or lower"
        " --max-pending."
    )
    return Finding(Verdict.WARNING, evidence, remedy)


def _count(number: float) -> str:
    return "any number" if number == float("inf") else f"{number:.0f}"


def judge_shortage(error: OSError, requested: bool) -> Finding:
    """Judge a check that had no descriptor, and whether it is about a requested address.

    Raises:
        OSError: The check failed for another reason.
    """
    if error.errno is None or not descriptor_shortage(error.errno):
        raise error
    reason, remedy = vsock_advice(error.errno)
    if requested:
        return Finding(Verdict.FAILED, reason, remedy)
    return Finding(Verdict.SKIPPED, f"unknown: {reason}", remedy)


def judge_thread_shortage() -> Finding:
    """Judge a check that could not run because no thread could be started."""
    remedy = (
        "Raise the limit of processes of this user (ulimit -u) or of the container (--pids-limit),"
        " or the limit of memory (ulimit -v)."
    )
    return Finding(Verdict.WARNING, "unknown: no thread can be started", remedy)


def judge_unix_heartbeat(seen: float | str | OSError) -> Finding:
    """Judge the seconds of a heartbeat or what went wrong; OSError if its socket has no place."""
    if isinstance(seen, OSError) and seen.errno is not None and descriptor_shortage(seen.errno):
        return Finding(Verdict.WARNING, *vsock_advice(seen.errno))
    if isinstance(seen, OSError):
        evidence = f"there is no directory for its socket: {seen.strerror or seen}"
        remedy = "Name a directory in which you may write: TMPDIR=DIR nitrohb doctor"
        return Finding(Verdict.WARNING, evidence, remedy)
    remedy = "Please report it, with the output of: nitrohb doctor --format json"
    return _judge_heartbeat(seen, Verdict.FAILED, remedy)


def judge_loopback_heartbeat(seen: float | str | OSError) -> Finding:
    """Judge a heartbeat over CID 1; OSError if no socket can be bound to CID 1."""
    if isinstance(seen, OSError) and seen.errno == errno.EADDRNOTAVAIL:
        return Finding(Verdict.SKIPPED, "there is no loopback transport")
    if isinstance(seen, OSError):
        return _unknown(vsock_advice(seen.errno or 0)[0])
    remedy = (
        "If your enclaves connect over CID 1, look for a security module (SELinux, AppArmor) that"
        " blocks it."
    )
    return _judge_heartbeat(seen, Verdict.WARNING, remedy)


def _judge_heartbeat(seen: float | str, bad: Verdict, remedy: str) -> Finding:
    if isinstance(seen, str):
        return Finding(bad, f"a heartbeat was not answered: {seen}", remedy)
    return Finding(Verdict.OK, f"a heartbeat was answered in {seen * 1000:.1f} ms")
