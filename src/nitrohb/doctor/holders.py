# SPDX-License-Identifier: Apache-2.0
"""Who holds an address on which we cannot listen, as far as this user can see.

The kernel's sock_diag(7) names the sockets of AF_VSOCK, and /proc/net/unix those of AF_UNIX, by
their inodes; the links in /proc/PID/fd say whose these are. (psutil does not know AF_VSOCK, and
ss(8) is missing in many containers.)

sock_diag needs the module vsock_diag, and shows this network namespace alone, though a port is
taken in all of them (up to Linux 6.x). Where it shows nothing, each process that can be seen is
asked whether it has an AF_VSOCK socket at all: by the extended attribute that the kernel gives the
link of every socket, its protocol.
"""

import os
import socket
import struct
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from ..addresses import CID_ANY, PORT_ANY

__all__ = ["holder_of_path", "holder_of_port"]

_PATIENCE: Final = 3.0  # seconds: a machine can have very many processes

_AF_VSOCK: Final = 40  # linux/socket.h
_PROTOCOL_NAME: Final = "system.sockprotoname"  # net/socket.c

# linux/netlink.h, linux/sock_diag.h, linux/vm_sockets_diag.h
_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_REQUEST_DUMP: Final = 0x301
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_QUERY: Final = struct.Struct("=BBHIIIII")  # family, 0, 0, states, 0, 0, cookie
_ANSWER: Final = struct.Struct("=BBBBIIIII")  # family, type, state, 0, CID, port, CID, port, inode
_ALL_STATES: Final = 0xFFFFFFFF
_DIAG_TIMEOUT: Final = 1.0  # seconds
_DIAG_READ: Final = 1 << 16

_LISTENS: Final = 0x10000  # __SO_ACCEPTCON of linux/net.h, in the flags of /proc/net/unix
_CONNECTED: Final = 3  # SS_CONNECTED of linux/net.h, the state there


class Bound(NamedTuple):
    """A bound AF_VSOCK socket, and whether it has a peer."""

    cid: int
    port: int
    inode: int
    has_peer: bool


class Named(NamedTuple):
    """A Unix socket that has a name, whether it listens, and whether it has a peer."""

    inode: int
    listens: bool
    has_peer: bool


def holder_of_port(port: int, cid: int = CID_ANY, proc: str = "/proc") -> str | None:
    """Say who holds a vsock port, in words (held by ...); None if that cannot be told."""
    if bound := [bound for bound in bound_sockets() if _conflicts(bound, cid, port)]:
        # What a listener has accepted has its port too, but does not take it.
        alone = [each for each in bound if not each.has_peer]
        return _owners({each.inode for each in alone or bound}, proc)
    pids = _processes_with_vsock(proc)
    if not pids:
        return None
    has = "has" if len(pids) == 1 else "have"
    # Only one has the port, but each could.
    return f"probably held by {_named(pids, proc, 'or')}, which {has} AF_VSOCK sockets open"


def holder_of_path(path: str, proc: str = "/proc") -> str | None:
    """Say who listens on a path, or else who is bound to it, in words (held by ...).

    None if that cannot be told.
    """
    named = list(_named_sockets(path, proc))
    # What a listener has accepted has its path too, but does not take it.
    alone = [each for each in named if not each.has_peer]
    listening = [each for each in alone if each.listens]
    inodes = {each.inode for each in listening or alone or named}
    return _owners(inodes, proc) if inodes else None


def _conflicts(bound: Bound, cid: int, port: int) -> bool:
    return bound.port == port and (CID_ANY in (cid, bound.cid) or cid == bound.cid)


def bound_sockets() -> list[Bound]:
    """The AF_VSOCK sockets of this network namespace; none where the kernel does not tell."""
    with suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as diag:
        diag.settimeout(_DIAG_TIMEOUT)
        query = _QUERY.pack(_AF_VSOCK, 0, 0, _ALL_STATES, 0, 0, 0, 0)
        header = _HEADER.pack(_HEADER.size + len(query), _BY_FAMILY, _REQUEST_DUMP, 1, 0)
        diag.send(header + query)
        return list(_receive_all(diag))
    return []


def _receive_all(diag: socket.socket) -> Generator[Bound]:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        bound, ended = parse_diag(diag.recv(_DIAG_READ))
        yield from bound
        if ended:
            return


def parse_diag(data: bytes) -> tuple[list[Bound], bool]:
    """Read a datagram of sock_diag: the sockets in it that are bound, and whether it is the last.

    Anything that it cannot be ends it.
    """
    found: list[Bound] = []
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if kind != _BY_FAMILY or not _HEADER.size + _ANSWER.size <= length <= len(data):
            return found, True  # NLMSG_DONE or NLMSG_ERROR, where the kernel is what it should be
        _, _, _, _, cid, port, _, peer, inode = _ANSWER.unpack_from(data, _HEADER.size)
        found.append(Bound(cid, port, inode, has_peer=peer != PORT_ANY))
        data = data[(length + 3) & ~3 :]
    return found, not found


def _named_sockets(path: str, proc: str) -> Generator[Named]:
    """The sockets that have a path for their name, as it was written when they were bound."""
    names = {path, os.path.abspath(path)}
    with suppress(OSError), open(f"{proc}/net/unix", errors="surrogateescape") as table:
        for line in table:
            # Num RefCount Protocol Flags Type St Inode Path, the first line being these words
            words = line.rstrip("\n").split(maxsplit=7)
            if len(words) == 8 and words[7] in names:
                listens = bool(int(words[3], 16) & _LISTENS)
                yield Named(int(words[6]), listens, has_peer=int(words[5], 16) == _CONNECTED)


def _owners(inodes: set[int], proc: str) -> str:
    """Say who holds some sockets."""
    links = {f"socket:[{inode}]" for inode in inodes}
    pids: list[int] = []
    for pid, fd in _descriptors(proc):
        if pid not in pids and _target(fd) in links:
            pids.append(pid)
    return f"held by {_named(pids, proc, 'and') if pids else 'a process that this user cannot see'}"


def _processes_with_vsock(proc: str) -> list[int]:
    pids: list[int] = []
    for pid, fd in _descriptors(proc):
        if pid not in pids and _target(fd).startswith("socket:") and _is_vsock(fd):
            pids.append(pid)
    return pids


def _target(fd: str) -> str:
    try:
        return os.readlink(fd)
    except OSError:
        return ""


def _is_vsock(fd: str) -> bool:
    # Only of a socket: the server of a network file system could let one wait for an answer.
    with suppress(OSError):
        return os.getxattr(fd, _PROTOCOL_NAME).rstrip(b"\0") == b"AF_VSOCK"
    return False


def _descriptors(proc: str) -> Iterator[tuple[int, str]]:
    """The open descriptors of other processes, as far as this user, and the time, allow it."""
    until = time.monotonic() + _PATIENCE
    for pid in _list(proc):
        if pid.isdecimal() and int(pid) != os.getpid() and time.monotonic() < until:
            yield from ((int(pid), f"{proc}/{pid}/fd/{fd}") for fd in _list(f"{proc}/{pid}/fd"))


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _named(pids: list[int], proc: str, conjunction: str) -> str:
    return f" {conjunction} ".join(_name(pid, proc) for pid in pids)


def _name(pid: int, proc: str) -> str:
    try:
        with open(f"{proc}/{pid}/comm", errors="replace") as comm:
            name = comm.read().rstrip("\n")
    except OSError:
        return f"process {pid}"
    # A process chooses its own name, which could have the terminal's commands in it.
    return f"process {pid} ({''.join(char if char.isprintable() else '?' for char in name)})"
