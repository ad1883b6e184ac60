# SPDX-License-Identifier: Apache-2.0
"""Looks at the machine, and changes nothing. A missing thing is a result, not an error.

The result of a system call is its errno, or 0 for success. Other probes raise OSError if the
process has no free descriptor. Tests pass other paths than /proc and /sys.
"""

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from glob import glob, iglob
from typing import Final

from ..addresses import PORT_ANY
from ..remedies import NO_AF_VSOCK
from ..sockets.syscalls import AF_VSOCK


def bind_errno(cid: int) -> int:
    """Return the errno of binding an AF_VSOCK socket to a free port of a CID.

    Linux binds the socket only if this machine has the CID. Otherwise the errno is EADDRNOTAVAIL.
    This needs no privilege, and neither /proc nor /sys. It can load a kernel module.
    """
    if AF_VSOCK is None:
        return NO_AF_VSOCK
    try:
        with socket.socket(AF_VSOCK, socket.SOCK_STREAM) as sock:
            sock.bind((cid, PORT_ANY))
    except OSError as error:
        return error.errno or 0
    return 0


class Enclaves(Enum):
    """Whether real enclaves can be started here, by their device. The values are for people."""

    STARTABLE = "it exists, and this user can open it"
    REFUSED = "it exists, but this user cannot open it"
    UNKNOWN = "/dev/nitro_enclaves does not exist, and /sys does not show the machine's devices"
    DISABLED = "enclaves are not enabled on this machine: it has no PCI device 1d0f:e4c1"
    NO_DRIVER = "/dev/nitro_enclaves does not exist: its PCI device, 1d0f:e4c1, has no driver"
    OUTSIDE = "it does not exist here, but its PCI device, 1d0f:e4c1, has a driver"


_ENCLAVES: Final = "/dev/nitro_enclaves"
_MODALIAS: Final = "pci:v00001D0Fd0000E4C1"  # PCI_DEVICE_ID_NE of the kernel's ne_pci_dev.h


def enclaves(device: str = _ENCLAVES, sys: str = "/sys") -> Enclaves:
    """Look for the device of real enclaves, and for its PCI device, which containers also see."""
    if os.path.exists(device):
        is_usable = os.access(device, os.R_OK | os.W_OK)
        return Enclaves.STARTABLE if is_usable else Enclaves.REFUSED
    for name in glob(f"{sys}/bus/pci/devices/*"):
        with suppress(OSError), open(f"{name}/modalias") as modalias:
            if modalias.read().startswith(_MODALIAS):
                has_driver = os.path.exists(f"{name}/driver")
                return Enclaves.OUTSIDE if has_driver else Enclaves.NO_DRIVER
    # Without /sys/bus, /sys is hidden. A small VM has it, but no PCI.
    return Enclaves.DISABLED if os.path.exists(f"{sys}/bus") else Enclaves.UNKNOWN


def descriptor_limit() -> float:
    """Return how many descriptors ``serve`` may have. It raises its soft limit."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return float("inf") if limit == resource.RLIM_INFINITY else limit


# Which process holds an address that is taken: /proc/net/unix names each Unix socket and its inode,
# and the links in /proc/PID/fd name the inodes that a process has open. There is no such table for
# AF_VSOCK: a process that has an AF_VSOCK socket open is only suspected.

_SEARCH_DEADLINE: Final = 3.0  # seconds: a machine can have many processes
_PROTOCOL_NAME: Final = "system.sockprotoname"  # net/socket.c: an extended attribute of a socket
_CONNECTED: Final = 3  # SS_CONNECTED of linux/net.h


def holder_of_path(path: str, proc: str = "/proc") -> str | None:
    """Name the processes that hold the socket of a path, in words; None if there is no such socket.

    A connection that a listener has accepted has the path of the listener, but does not hold it.
    """
    links = {f"socket:[{inode}]" for inode in _unconnected(path, proc)}
    if not links:
        return None
    names = _processes(lambda fd: os.readlink(fd) in links, proc)
    return f"held by {' and '.join(names) or 'a process that this user cannot see'}"


def suspects_of_port(proc: str = "/proc") -> str:
    """Name the processes that have AF_VSOCK sockets open, in words.

    A port is taken in all global vsock namespaces, or in a local one. This searches all of them.
    """
    names = _processes(_is_vsock, proc)
    if not names:
        return (
            "the holder is not visible from here: all containers of the machine share its AF_VSOCK"
            " ports, and only root sees the processes of all users"
        )
    has = "has" if len(names) == 1 else "have"
    return f"probably held by {' or '.join(names)}, which {has} AF_VSOCK sockets open"


def _unconnected(path: str, proc: str) -> Iterator[int]:
    """Yield the inodes of the unconnected Unix sockets at a path, which can be relative."""
    paths = {path, os.path.abspath(path)}
    with suppress(OSError), open(f"{proc}/net/unix", errors="surrogateescape") as table:
        for line in table:
            # Columns, named in the first line: Num RefCount Protocol Flags Type St Inode Path
            words = line.rstrip("\n").split(maxsplit=7)
            if len(words) == 8 and words[7] in paths and int(words[5], 16) != _CONNECTED:
                yield int(words[6])


def _is_vsock(fd: str) -> bool:
    # Only for sockets: on a network file system, getxattr() could wait for its server.
    is_socket = os.readlink(fd).startswith("socket:")
    return is_socket and os.getxattr(fd, _PROTOCOL_NAME).rstrip(b"\0") == b"AF_VSOCK"


def _processes(holds: Callable[[str], bool], proc: str) -> list[str]:
    """Name other processes that hold a socket, if this user sees them before the deadline."""
    until = time.monotonic() + _SEARCH_DEADLINE
    found: list[str] = []
    for fd in iglob(f"{proc}/[0-9]*/fd/*"):
        if time.monotonic() > until:
            break
        pid = fd.split("/")[-3]
        with suppress(OSError):
            if pid != str(os.getpid()) and pid not in found and holds(fd):
                found.append(pid)
    return [_name(f"{proc}/{pid}", pid) for pid in found]


def _name(process: str, pid: str) -> str:
    with suppress(OSError), open(f"{process}/comm", errors="replace") as comm:
        name = comm.read().rstrip("\n")
        # A process chooses its name, which could contain escape sequences.
        printable = "".join(char if char.isprintable() else "?" for char in name)
        return f"process {pid} ({printable})"
    return f"process {pid}"
