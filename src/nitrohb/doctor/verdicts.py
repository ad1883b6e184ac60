# SPDX-License-Identifier: Apache-2.0
"""What a finding is, and the verdict on everything that a probe can see.

Nothing here looks at the machine, so that a test can judge any machine.
"""

import errno
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from ..addresses import CID_ANY
from ..errors import ListenError
from ..protocol import PARENT_CID
from ..remedies import LOCAL_ADVICE, LOOPBACK_CID, NO_AF_VSOCK, descriptor_shortage, vsock_advice
from ..sockets.vsock import VSOCK_DEVICE
from .probes import Device, EnclaveDevice
from .selftest import Result


class Verdict(StrEnum):
    """What a check means for a heartbeat server on this machine."""

    OK = "ok"
    INFO = "info"  # it is missing, and only some need it
    WARNING = "warning"  # heartbeats might not arrive
    FAILED = "failed"  # no heartbeat can arrive
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


class Endpoint(NamedTuple):
    """An address on which nitrohb has listened.

    Attributes:
        cid: The local CID of an AF_VSOCK socket.
        is_isolated: Whether its vsock namespace is known to be local.
        access: Who may connect to the file of a Unix socket, and what helps; None on AF_VSOCK.
    """

    cid: int
    is_isolated: bool
    access: tuple[str, str | None] | None


def overall(checks: Iterable[CheckResult]) -> Verdict:
    """The worst verdict: failed, warning, or else ok."""
    verdicts = {check.finding.verdict for check in checks}
    return next((bad for bad in (Verdict.FAILED, Verdict.WARNING) if bad in verdicts), Verdict.OK)


def _unknown(why: str) -> Finding:
    return Finding(Verdict.SKIPPED, f"unknown: {why}")


# What can be seen, and the verdict on it. The functions below look up and fill in.

HOST_CID: Final = 2  # VMADDR_CID_HOST of linux/vm_sockets.h

CIDS: Final = {
    LOOPBACK_CID: (
        "QEMU guests over the loopback (forward-cid=1 of vhost-device-vsock)",
        "For QEMU -M nitro-enclave with forward-cid=1: modprobe vsock_loopback",
    ),
    HOST_CID: (
        "VMs with a vhost-vsock device, if their init connects to CID 2",
        "For VMs with a vhost-vsock device: modprobe vhost_vsock",
    ),
    PARENT_CID: (
        "real enclaves and sibling VMs",
        "For real enclaves, run nitrohb on the EC2 instance that starts them:"
        " modprobe vmw_vsock_virtio_transport",
    ),
}
"""The CIDs to which inits connect: whose, and how this machine gets the CID."""

KINDS: Final[dict[str | None, tuple[str, tuple[int, ...]]]] = {
    None: ("an enclave", (*CIDS,)),
    "nitro": ("a real enclave", (PARENT_CID,)),
    "qemu": ("a QEMU guest", (LOOPBACK_CID, PARENT_CID)),
    "firecracker": ("a Firecracker VM", ()),
    "cloud-hypervisor": ("a Cloud Hypervisor VM", ()),
}
"""The kinds of enclaves, and to which CIDs of this machine their connections can come."""

_USE_ANY: Final = "Use -l vsock::9000."
_NEVER_UNIX: Final = Finding(
    Verdict.FAILED, "a real enclave never connects to a Unix socket", _USE_ANY
)
_ONLY_CID_2: Final = Finding(
    Verdict.WARNING,
    "vhost-device-vsock (uds-path) forwards connections to CID 2 only, and an unmodified init"
    " connects to CID 3",
    "For an unmodified init, use forward-cid=1 and -l vsock::9000.",
)
_ONLY_SIBLINGS: Final = Finding(
    Verdict.SKIPPED,
    "this machine cannot start real enclaves (it has no PCI device 1d0f:e4c1), but its CID is 3, so"
    " sibling VMs can connect (of the same vhost-device-vsock)",
)
_LOCAL: Final = {True: Verdict.WARNING, False: Verdict.FAILED}
_USE_HYBRID: Final = "Use -l hybrid:PATH:9000, where PATH is the vsock socket of the VM."

_NO_ENCLAVES: Final = {
    EnclaveDevice.UNKNOWN: "Use an EC2 instance with enclaves enabled: modprobe nitro_enclaves",
    EnclaveDevice.ABSENT: "Use an EC2 instance that was launched with enclaves enabled.",
    EnclaveDevice.IDLE: "Load its driver: modprobe nitro_enclaves",
    EnclaveDevice.DRIVEN: "For a launcher in a container, pass it in: --device /dev/nitro_enclaves",
}

_ALLOW_USER: Final = "For a launcher of this user, add the user to the group of the device (ne)."

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


def judge_reach(
    kind: str | None, end: Endpoint, seen: Mapping[int, int], device: EnclaveDevice
) -> Finding:
    """Judge whether the heartbeat of an enclave can reach an address on which nitrohb can listen.

    Args:
        kind: The kind of the enclave, a key of :data:`KINDS`.
        end: The address.
        seen: The errno of binding a socket to each of :data:`CIDS`.
        device: The PCI device of real enclaves.
    """
    who, cids = KINDS[kind]
    if end.access is not None:
        own = Finding(Verdict.INFO if end.access[1] else Verdict.OK, *end.access)
        return {"nitro": _NEVER_UNIX, "qemu": _ONLY_CID_2}.get(kind or "", own)
    if not cids:
        return Finding(Verdict.FAILED, f"{who} connects to a Unix socket", _USE_HYBRID)
    if end.cid != CID_ANY:
        if kind is not None and end.cid not in cids:
            return Finding(Verdict.FAILED, f"{who} never connects to CID {end.cid}", _USE_ANY)
        cids = (end.cid,)
    present = [cid for cid in cids if seen.get(cid, 0) == 0]
    if end.is_isolated:  # enclaves and sibling VMs reach global namespaces only
        return Finding(_LOCAL[any(cid != PARENT_CID for cid in present)], *LOCAL_ADVICE)
    if present == [PARENT_CID] and device is EnclaveDevice.ABSENT:
        return _ONLY_SIBLINGS
    if present:
        clients = (CIDS[cid][0] if cid in CIDS else f"clients of CID {cid}" for cid in present)
        return Finding(Verdict.OK, f"from {', and from '.join(clients)}")
    if unknown := {seen[cid] for cid in cids} - {errno.EADDRNOTAVAIL}:
        return _unknown(vsock_advice(min(unknown))[0])
    missing = " or ".join(map(str, cids))
    remedy = " ".join(f"{CIDS[cid][1]}." for cid in cids)
    return Finding(Verdict.FAILED, f"this machine does not have CID {missing}", remedy)


def judge_cid(cid: int, number: int) -> Finding:
    """Judge the errno of binding a socket to one of :data:`CIDS`."""
    clients, remedy = CIDS[cid]
    if number == 0:
        return Finding(Verdict.OK, "this machine has it")
    if number == errno.EADDRNOTAVAIL:
        return Finding(Verdict.INFO, f"not on this machine: no connections from {clients}", remedy)
    return _unknown(vsock_advice(number)[0])


def judge_local_cid(seen: int | OSError) -> Finding:
    """Judge what /dev/vsock returns."""
    if seen == CID_ANY:
        return Finding(Verdict.INFO, "this machine has none")
    if isinstance(seen, int):
        return Finding(Verdict.OK, f"CID {seen}")
    name = errno.errorcode.get(seen.errno or 0, "unknown")
    return _unknown(f"{VSOCK_DEVICE}: {seen.strerror} ({name})")


def judge_enclave_device(seen: Device, why: EnclaveDevice, is_needed: bool) -> Finding:
    """Judge the state of /dev/nitro_enclaves, and why it is missing if it is."""
    if seen is Device.USABLE:
        return Finding(Verdict.OK, seen.value)
    if seen is Device.REFUSED:
        return Finding(Verdict.INFO, seen.value, _ALLOW_USER)
    is_fatal = is_needed and why in (EnclaveDevice.ABSENT, EnclaveDevice.IDLE)
    return Finding(Verdict.FAILED if is_fatal else Verdict.INFO, why.value, _NO_ENCLAVES[why])


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
