# SPDX-License-Identifier: Apache-2.0
"""Look at the machine, and change nothing. Something that is missing is an answer, not an error.

The result of a system call is its errno, or 0 for success. Other probes raise OSError if the
process has no descriptor left to look with. Tests pass other paths than /proc and /sys.
"""

import errno
import os
import resource
import socket
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from ..addresses import CID_ANY, PORT_ANY
from ..remedies import LOOPBACK_CID, NO_AF_VSOCK, descriptor_shortage
from ..sockets.vsock import read_local_cid
from ..sockets.wire import AF_VSOCK

__all__ = [
    "HOST_CID",
    "Device",
    "LocalCid",
    "Namespace",
    "Transports",
    "bind_vsock",
    "descriptor_limits",
    "device",
    "local_cid",
    "namespace",
    "seccomp_mode",
    "transports",
    "vsock_socket",
]

HOST_CID: Final = 2  # VMADDR_CID_HOST of linux/vm_sockets.h

_AF_VSOCK: Final = 40  # linux/socket.h, for a Python that lacks the name


def vsock_socket() -> int:
    """The errno of making an AF_VSOCK socket. This can make the kernel load its module."""
    try:
        socket.socket(_AF_VSOCK, socket.SOCK_STREAM).close()
    except OSError as error:
        return error.errno or 0
    return 0


def bind_vsock(cid: int) -> int:
    """The errno of binding to a free port of a CID: EADDRNOTAVAIL if this machine lacks that CID.

    The kernel binds a socket to a CID if, and only if, the transport with that CID is present, as a
    module or built in. This needs no privilege, and neither /proc nor /sys.
    """
    if AF_VSOCK is None:
        return NO_AF_VSOCK
    try:
        with socket.socket(AF_VSOCK, socket.SOCK_STREAM) as sock:
            sock.bind((cid, PORT_ANY))
    except OSError as error:
        return error.errno or 0
    return 0


@dataclass(frozen=True, slots=True)
class LocalCid:
    """The CID that /dev/vsock returns, ``CID_ANY`` for none; or the errno of asking."""

    cid: int
    errno: int = 0


def local_cid() -> LocalCid:
    """Ask /dev/vsock for the local CID."""
    try:
        return LocalCid(read_local_cid())
    except OSError as error:
        return LocalCid(CID_ANY, error.errno or errno.EIO)


@dataclass(frozen=True, slots=True)
class Transports:
    """Which transports are present.

    Attributes:
        loopback: The errno of binding to the CID of the loopback.
        guest: The errno of binding to the CID that a hypervisor gave to this machine; None if that
            CID is unknown.
        host: The errno of binding to the CID of a host of VMs.
        modules: The names of the kernel modules that this user can see.
    """

    loopback: int
    guest: int | None
    host: int
    modules: frozenset[str]


def transports(proc: str = "/proc", sys: str = "/sys") -> Transports:
    """Find out which transports are present."""
    return Transports(
        loopback=bind_vsock(LOOPBACK_CID),
        guest=_bind_own_cid(local_cid()),
        host=bind_vsock(HOST_CID),
        modules=_modules(proc, sys),
    )


def _bind_own_cid(local: LocalCid) -> int | None:
    if local.errno:
        return None
    if local.cid in (CID_ANY, LOOPBACK_CID, HOST_CID):
        return errno.EADDRNOTAVAIL
    return bind_vsock(local.cid)


def _modules(proc: str, sys: str) -> frozenset[str]:
    """The loaded modules, and the built-in ones that have parameters."""
    loaded = {line.split(" ")[0] for line in (_read(f"{proc}/modules") or "").splitlines()}
    try:
        return frozenset(loaded | set(os.listdir(f"{sys}/module")))
    except OSError:
        return frozenset(loaded)


_BOTH: Final = os.R_OK | os.W_OK  # as in three bits of a mode


class Device(Enum):
    """The state of a device, in words."""

    USABLE = "it exists, and this user may open it"
    FOR_GROUP = "it exists, but this user is not in its group, which may open it"
    FOR_OWNER = "it exists, but its mode lets only its owner read and write it"
    REFUSED = "it exists, and its mode lets this user open it, but something else does not"
    MISSING = "it does not exist"
    OTHER = "the file there is not a device"


def device(path: str) -> Device:
    """Look for a device without opening it: to open it could load modules or start something."""
    try:
        status = os.stat(path)
    except OSError:
        return Device.MISSING
    if not stat.S_ISCHR(status.st_mode):
        return Device.OTHER
    return Device.USABLE if os.access(path, _BOTH) else _why_unusable(status)


def _why_unusable(status: os.stat_result) -> Device:
    """Find out what keeps this user from opening a device."""
    mode = stat.S_IMODE(status.st_mode)
    uid, gids = os.getuid(), {os.getgid(), *os.getgroups()}
    if uid == status.st_uid:
        granted = mode >> 6
    elif status.st_gid in gids:
        granted = mode >> 3
    else:
        granted = mode
    if uid == 0 or granted & _BOTH == _BOTH:
        return Device.REFUSED
    # Nobody should join the group root for a device.
    has_group = mode >> 3 & _BOTH == _BOTH and status.st_gid not in {0, *gids}
    return Device.FOR_GROUP if has_group else Device.FOR_OWNER


def seccomp_mode(proc: str = "/proc") -> int | None:
    """The seccomp mode of this process: 0 none, 1 strict, 2 filter; None if it is hidden."""
    for line in (_read(f"{proc}/self/status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "Seccomp" and value.strip().isdecimal():
            return int(value)
    return None


@dataclass(frozen=True, slots=True)
class Namespace:
    """What /proc/sys says about this network namespace.

    Attributes:
        mode: "global" or "local" from Linux 7.0 on; None on an older kernel.
        visible: Whether /proc/sys/net can be seen at all.
    """

    mode: str | None
    visible: bool


def namespace(proc: str = "/proc") -> Namespace:
    """Read the sysctl net.vsock.ns_mode."""
    mode = _read(f"{proc}/sys/net/vsock/ns_mode")
    return Namespace(mode and mode.strip(), os.path.isdir(f"{proc}/sys/net"))


def descriptor_limits() -> tuple[float, float]:
    """How many descriptors this process may have, and how far it may raise that limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _limit(soft), _limit(hard)


def _limit(value: int) -> float:
    return float("inf") if value == resource.RLIM_INFINITY else value


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError as error:
        if descriptor_shortage(error.errno):
            raise  # the file might exist
        return None
