# SPDX-License-Identifier: Apache-2.0
"""Judges what a probe has seen. Nothing here looks at the machine, so tests can invent one."""

import errno
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from ..addresses import CID_ANY
from ..errors import ListenError
from ..protocol import PARENT_CID
from ..remedies import LOCAL_ADVICE, LOOPBACK_CID, descriptor_shortage, vsock_advice
from .probes import Enclaves
from .selftest import Result


class Verdict(StrEnum):
    """What a check means for a heartbeat server on this machine."""

    OK = "ok"
    INFO = "info"  # something is missing that only some need
    WARNING = "warning"  # heartbeats might not arrive
    FAILED = "failed"  # no heartbeat can arrive
    SKIPPED = "skipped"  # unknown


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, what was seen, and what to do about it (None: nothing)."""

    verdict: Verdict
    evidence: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check: a name for programs, a title for people, an address if it has one."""

    name: str
    title: str
    subject: str | None
    finding: Finding

    def to_json(self) -> dict[str, str | None]:
        """Return the result as an object for JSON."""
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
    """Return the worst verdict: failed, warning, or else ok."""
    verdicts = {check.finding.verdict for check in checks}
    return next((bad for bad in (Verdict.FAILED, Verdict.WARNING) if bad in verdicts), Verdict.OK)


HOST_CID: Final = 2  # VMADDR_CID_HOST of linux/vm_sockets.h

CIDS: Final = {
    LOOPBACK_CID: (
        "QEMU guests over the loopback (forward-cid=1 of vhost-device-vsock)",
        "For QEMU -M nitro-enclave with forward-cid=1: modprobe vsock_loopback.",
    ),
    HOST_CID: (
        "VMs with a vhost-vsock device, if their init connects to CID 2",
        "For VMs with a vhost-vsock device: modprobe vhost_vsock.",
    ),
    PARENT_CID: (
        "real enclaves and sibling VMs",
        "For real enclaves, run nitrohb on the EC2 instance that starts them:"
        " modprobe vmw_vsock_virtio_transport.",
    ),
}
"""By CID: which enclaves connect to it, and how this machine gets it."""

KINDS: Final[dict[str | None, tuple[str, tuple[int, ...]]]] = {
    None: ("an enclave", (*CIDS,)),
    "nitro": ("a real enclave", (PARENT_CID,)),
    "qemu": ("a QEMU guest", (LOOPBACK_CID, PARENT_CID)),
    "firecracker": ("a Firecracker VM", ()),
    "cloud-hypervisor": ("a Cloud Hypervisor VM", ()),
}
"""The kinds of enclaves, and the CIDs of this machine at which their connections arrive."""

_USE_ANY: Final = "Use -l vsock::9000."
_ONLY_CID_2: Final = (
    "vhost-device-vsock (uds-path) forwards connections to CID 2 only, and an unmodified init"
    " connects to CID 3"
)
_FORWARD: Final = "For an unmodified init, use forward-cid=1 and -l vsock::9000."
_ONLY_SIBLINGS: Final = (
    "only sibling VMs (of the same vhost-device-vsock) can connect, because this machine has CID 3,"
    " but not the PCI device of real enclaves (1d0f:e4c1)"
)
_USE_HYBRID: Final = "Use -l hybrid:PATH:9000, where PATH is the vsock socket of the VM."

_ENCLAVES: Final = {
    Enclaves.STARTABLE: None,
    Enclaves.REFUSED: "For a launcher of this user, add the user to the group of the device (ne).",
    Enclaves.UNKNOWN: "For real enclaves, use an EC2 instance that was launched with enclaves"
    " enabled, and load the driver: modprobe nitro_enclaves",
    Enclaves.DISABLED: "For real enclaves, use an EC2 instance that was launched with enclaves"
    " enabled.",
    Enclaves.NO_DRIVER: "Load its driver: modprobe nitro_enclaves",
    Enclaves.OUTSIDE: "For a launcher in a container, pass it in: --device /dev/nitro_enclaves",
}
"""The remedy for a launcher of real enclaves."""

NO_THREAD: Final = Finding(
    Verdict.WARNING,
    "unknown: no thread can be started",
    "Raise the process limit of this user (ulimit -u) or container (--pids-limit), or the memory"
    " limit (ulimit -v).",
)

LISTENS: Final = Finding(Verdict.OK, "nitrohb can listen there (tried and undone)")


def judge_listen(error: ListenError, holder: str | None) -> Finding:
    """Judge a failure to listen on an address, and name the process that holds it, if known."""
    held = f"; {holder}" if holder else ""
    return Finding(Verdict.FAILED, f"{error.reason}{held}", error.remedy)


def judge_reach(
    kind: str | None, end: Endpoint, seen: Mapping[int, int], enclaves: Enclaves
) -> Finding:
    """Judge whether the heartbeat of an enclave can reach an address on which nitrohb can listen.

    Args:
        kind: The kind of the enclave, a key of ``KINDS``.
        end: The address.
        seen: The errno of binding a socket, for each of ``CIDS``.
        enclaves: Whether real enclaves can be started here.
    """
    who, cids = KINDS[kind]
    if end.access is not None:
        evidence, remedy = end.access
        if kind == "nitro":
            return Finding(Verdict.FAILED, f"{who} never connects to a Unix socket", _USE_ANY)
        if kind == "qemu":
            remedy = " ".join(filter(None, (_FORWARD, remedy)))
            return Finding(Verdict.WARNING, f"{_ONLY_CID_2}; {evidence}", remedy)
        return Finding(Verdict.INFO if remedy else Verdict.OK, evidence, remedy)
    if not cids:
        return Finding(Verdict.FAILED, f"{who} connects to a Unix socket", _USE_HYBRID)
    if end.cid != CID_ANY:
        if kind is not None and end.cid not in cids:
            return Finding(Verdict.FAILED, f"{who} never connects to CID {end.cid}", _USE_ANY)
        cids = (end.cid,)
    if kind == "nitro" and enclaves in (Enclaves.DISABLED, Enclaves.NO_DRIVER):
        return Finding(Verdict.FAILED, enclaves.value, _ENCLAVES[enclaves])
    present = [cid for cid in cids if seen.get(cid, 0) == 0]
    if end.is_isolated:  # real enclaves and sibling VMs reach global namespaces only
        is_reached = any(cid != PARENT_CID for cid in present)
        return Finding(Verdict.WARNING if is_reached else Verdict.FAILED, *LOCAL_ADVICE)
    missing = [cid for cid in cids if cid not in present]
    remedy = " ".join(CIDS[cid][1] for cid in missing) or None
    if present == [PARENT_CID] and enclaves is Enclaves.DISABLED:
        return Finding(Verdict.SKIPPED, _ONLY_SIBLINGS, remedy)
    if present:
        clients = (CIDS[cid][0] if cid in CIDS else f"clients of CID {cid}" for cid in present)
        verdict = Verdict.INFO if missing else Verdict.OK
        return Finding(verdict, f"from {', and from '.join(clients)}", remedy)
    if unknown := {seen[cid] for cid in missing} - {errno.EADDRNOTAVAIL}:
        why = vsock_advice(min(unknown))[0]
        return Finding(Verdict.SKIPPED, f"the CIDs of this machine cannot be seen: {why}")
    names = " or ".join(map(str, missing))
    return Finding(Verdict.FAILED, f"this machine does not have CID {names}", remedy)


def judge_enclaves(seen: Enclaves) -> Finding:
    """Judge whether a launcher can start real enclaves."""
    remedy = _ENCLAVES[seen]
    return Finding(Verdict.INFO if remedy else Verdict.OK, seen.value, remedy)


def judge_descriptors(limit: float, max_pending: int) -> Finding:
    """Judge whether the limit of open files allows ``--max-pending`` connections."""
    evidence = f"at most {limit:.0f} may be open, and --max-pending is {max_pending}"
    wanted = max_pending + 64  # for the listeners and other files
    if limit >= wanted:
        return Finding(Verdict.OK, evidence)
    remedy = (
        f"Raise the limit (ulimit -n {wanted}, or LimitNOFILE={wanted} in a systemd unit), or lower"
        " --max-pending."
    )
    return Finding(Verdict.INFO if limit >= max_pending else Verdict.WARNING, evidence, remedy)


def judge_shortage(error: OSError, verdict: Verdict) -> Finding:
    """Judge a check that lacked a descriptor. Raise any other error."""
    if error.errno is None or not descriptor_shortage(error.errno):
        raise error
    return Finding(verdict, *vsock_advice(error.errno))


def judge_heartbeat(seen: Result) -> Finding:
    """Judge a heartbeat over a temporary Unix socket."""
    if isinstance(seen, OSError) and seen.errno is not None and descriptor_shortage(seen.errno):
        return Finding(Verdict.WARNING, *vsock_advice(seen.errno))
    if isinstance(seen, OSError):
        evidence = f"no directory for a temporary socket: {seen.strerror or seen}"
        remedy = "Name a short directory in which you can write: TMPDIR=DIR nitrohb doctor"
        return Finding(Verdict.WARNING, evidence, remedy)
    if isinstance(seen, str):
        remedy = "Please report it, with the output of: nitrohb doctor --format json"
        return Finding(Verdict.FAILED, f"a heartbeat was not answered: {seen}", remedy)
    return Finding(Verdict.OK, f"a heartbeat was answered in {seen * 1000:.1f} ms")
