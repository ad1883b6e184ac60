# SPDX-License-Identifier: Apache-2.0
"""What a finding is, and the verdict on everything that a probe can see.

Nothing here looks at the machine, so that a test can judge any machine.
"""

import errno
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final

from ..addresses import CID_ANY
from ..errors import ListenError
from ..remedies import LOCAL_ADVICE, LOOPBACK_CID, NO_AF_VSOCK, descriptor_shortage, vsock_advice
from ..sockets.vsock import VSOCK_DEVICE
from .probes import HOST_CID, Device
from .selftest import Result


class Verdict(StrEnum):
    """What a check means for a heartbeat server on this machine."""

    OK = "ok"
    INFO = "info"  # it is missing, and only some need it
    WARNING = "warning"  # listening works, but heartbeats might not arrive
    FAILED = "failed"  # the server could not work
    SKIPPED = "skipped"  # unknown


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, what was seen, and what to do about it (None if there is nothing to do)."""

    verdict: Verdict
    evidence: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found: a name for programs, a title for people, and its address, if any."""

    name: str
    title: str
    subject: str | None
    finding: Finding

    def to_json(self) -> dict[str, str | None]:
        """The check as an object for JSON."""
        return {"name": self.name, "subject": self.subject, **asdict(self.finding)}


def overall(checks: Iterable[CheckResult]) -> Verdict:
    """The worst verdict: failed, warning, or else ok."""
    verdicts = {check.finding.verdict for check in checks}
    return next((bad for bad in (Verdict.FAILED, Verdict.WARNING) if bad in verdicts), Verdict.OK)


def _unknown(why: str) -> Finding:
    return Finding(Verdict.SKIPPED, f"unknown: {why}")


# What can be seen, and the verdict on it. The functions below look up and fill in.

TRANSPORTS: Final = {
    "loopback": (
        "from this machine itself",
        ("vsock_loopback",),
        "Load it if connections come over CID 1, as with QEMU -M nitro-enclave and forward-cid=1:"
        " modprobe vsock_loopback",
    ),
    "guest": (
        "from the hypervisor of this machine (on EC2: from its enclaves)",
        ("vmw_vsock_virtio_transport", "hv_sock", "vmw_vsock_vmci_transport"),
        "Load it on an EC2 instance that starts enclaves: modprobe vmw_vsock_virtio_transport",
    ),
    "host": (
        "from VMs on this machine",
        ("vhost_vsock", "vmw_vsock_vmci_transport"),
        "Load it for VMs with a vhost-vsock device: modprobe vhost_vsock",
    ),
}
"""Whose connections each kind of transport carries, its kernel modules, and who needs it."""

_LOCAL_CIDS: Final = {
    LOOPBACK_CID: Finding(Verdict.OK, "CID 1: only the loopback"),
    HOST_CID: Finding(Verdict.OK, "CID 2: a host of VMs"),
    CID_ANY: Finding(Verdict.INFO, "none, because no transport has one"),
}

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
"""How to get each device."""

_ALLOW_USER: Final = (
    "If this user needs it, add them to the group of the device (ls -l {path}), or run as root. In"
    " a container, pass the device in (--device {path})."
)

_FILTERED: Final = Finding(
    Verdict.FAILED,
    f"AF_VSOCK is refused (EAFNOSUPPORT) although {VSOCK_DEVICE} exists",
    "Add AF_VSOCK to RestrictAddressFamilies= of the systemd unit, or allow it in the seccomp"
    " profile.",
)

NO_THREAD: Final = Finding(
    Verdict.WARNING,
    "unknown: no thread can be started",
    "Raise the limit of processes of this user (ulimit -u) or of the container (--pids-limit), or"
    " the limit of memory (ulimit -v).",
)

LISTENS: Final = Finding(Verdict.OK, "nitrohb can listen there (tried and undone)")
LISTENS_LOCALLY: Final = Finding(
    Verdict.WARNING, f"{LISTENS.evidence}, but {LOCAL_ADVICE[0]}", LOCAL_ADVICE[1]
)


def unneeded(finding: Finding) -> Finding:
    """The same finding about AF_VSOCK, if no address needs it: not a problem."""
    is_problem = finding.verdict in (Verdict.FAILED, Verdict.WARNING)
    return replace(finding, verdict=Verdict.INFO) if is_problem else finding


def judge_listen(error: ListenError, holder: str | None) -> Finding:
    """Judge a failure to listen on an address, and which process holds it if any does."""
    held = f"; {holder}" if holder else ""
    return Finding(Verdict.FAILED, f"{error.reason}{held}", error.remedy)


def judge_python(has_af_vsock: bool) -> Finding:
    """Judge whether Python supports AF_VSOCK."""
    if has_af_vsock:
        return Finding(Verdict.OK, "it has socket.AF_VSOCK")
    return Finding(Verdict.FAILED, *vsock_advice(NO_AF_VSOCK))


def judge_kernel(number: int, device: Device) -> Finding:
    """Judge the errno of making an AF_VSOCK socket, by the state of /dev/vsock."""
    if number == 0:
        return Finding(Verdict.OK, "it makes AF_VSOCK sockets")
    if number == errno.EAFNOSUPPORT and device in (Device.USABLE, Device.REFUSED):
        return _FILTERED
    return Finding(Verdict.FAILED, *vsock_advice(number))


def judge_transport(
    kind: str, seen: Mapping[str, int | None], modules: list[str], is_local: bool
) -> Finding:
    """Judge whether a kind of transport is present, or any other kind instead."""
    number, (what, names, remedy) = seen[kind], TRANSPORTS[kind]
    loaded = "".join(f" (module {name})" for name in names if name in modules)
    if number == 0 and kind == "guest" and is_local:  # a socket can be bound, and hears nothing
        return Finding(Verdict.INFO, f"closed to a local vsock namespace{loaded}")
    if number == 0:
        return Finding(Verdict.OK, f"present{loaded}: connections {what}")
    if number is None:
        return _unknown(f"this machine does not tell its local CID{loaded}")
    if number != errno.EADDRNOTAVAIL:
        return _unknown(f"{vsock_advice(number)[0]}{loaded}")
    if set(seen.values()) == {errno.EADDRNOTAVAIL}:
        return Finding(Verdict.WARNING, "missing, like all others: no connections", remedy)
    return Finding(Verdict.INFO, f"missing{loaded}: no connections {what}", remedy)


def judge_local_cid(seen: int | OSError) -> Finding:
    """Judge what /dev/vsock returns."""
    if isinstance(seen, int):
        return _LOCAL_CIDS.get(seen, Finding(Verdict.OK, f"CID {seen}"))
    name = errno.errorcode.get(seen.errno or 0, "unknown")
    return _unknown(f"{VSOCK_DEVICE}: {seen.strerror} ({name})")


def judge_device(path: str, seen: Device) -> Finding:
    """Judge the state of a device."""
    if seen is Device.USABLE:
        return Finding(Verdict.OK, seen.value)
    remedy = _ALLOW_USER.format(path=path) if seen is Device.REFUSED else DEVICES[path]
    return Finding(Verdict.INFO, seen.value, remedy)


def judge_descriptors(limit: float, max_pending: int) -> Finding:
    """Judge whether the limit of open files allows ``--max-pending`` connections."""
    evidence = f"{limit:.0f} may be open, --max-pending is {max_pending}"
    if limit >= max_pending:
        return Finding(Verdict.OK, evidence)
    wanted = max_pending + 64  # and the listeners, and the other files of the process
    remedy = (
        f"Raise the limit (ulimit -n {wanted}, or LimitNOFILE={wanted} in a systemd unit), or lower"
        " --max-pending."
    )
    return Finding(Verdict.WARNING, evidence, remedy)


def judge_shortage(error: OSError, verdict: Verdict) -> Finding:
    """Explain a check that had no descriptor; raise any other error."""
    if error.errno is None or not descriptor_shortage(error.errno):
        raise error
    return Finding(verdict, *vsock_advice(error.errno))


def judge_unix_heartbeat(seen: Result) -> Finding:
    """Judge a heartbeat over a temporary Unix socket."""
    if isinstance(seen, OSError) and seen.errno is not None and descriptor_shortage(seen.errno):
        return Finding(Verdict.WARNING, *vsock_advice(seen.errno))
    if isinstance(seen, OSError):
        evidence = f"there is no directory for its socket: {seen.strerror or seen}"
        remedy = "Name a directory in which you may write: TMPDIR=DIR nitrohb doctor"
        return Finding(Verdict.WARNING, evidence, remedy)
    remedy = "Please report it, with the output of: nitrohb doctor --format json"
    return _judge_heartbeat(seen, Verdict.FAILED, remedy)


def judge_loopback_heartbeat(seen: Result) -> Finding:
    """Judge a heartbeat over CID 1."""
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
