# SPDX-License-Identifier: Apache-2.0
"""Which process holds an address that is taken, if this user can see it in /proc.

/proc/net/unix names each Unix socket and its inode, and the links in /proc/PID/fd name the inodes
that a process has open. There is no such table for AF_VSOCK: a process that has an AF_VSOCK socket
open is only suspected.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

__all__ = ["holder_of_path", "suspects_of_port"]

_DEADLINE: Final = 3.0  # seconds: a machine can have very many processes
_PROTOCOL_NAME: Final = "system.sockprotoname"  # net/socket.c: an extended attribute of a socket
_CONNECTED: Final = 3  # SS_CONNECTED of linux/net.h


def holder_of_path(path: str, proc: str = "/proc") -> str | None:
    """Name the processes that hold the socket of a path, in words; None if there is no such socket.

    A connection that a listener has accepted has the path of the listener, but does not hold it.
    """
    links = {f"socket:[{inode}]" for inode in _unconnected(path, proc)}
    if not links:
        return None
    pids = _processes(lambda fd: _target(fd) in links, proc)
    return f"held by {_named(pids, proc, 'and') if pids else 'a process that this user cannot see'}"


def suspects_of_port(proc: str = "/proc") -> str | None:
    """Name the processes that have AF_VSOCK sockets open, in words; None if there are none.

    A port is taken in all network namespaces (up to Linux 6.x), and so is this search.
    """
    pids = _processes(_is_vsock, proc)
    if not pids:
        return None
    has = "has" if len(pids) == 1 else "have"
    return f"probably held by {_named(pids, proc, 'or')}, which {has} AF_VSOCK sockets open"


def _unconnected(path: str, proc: str) -> Iterator[int]:
    """The inodes of the unconnected Unix sockets that are bound to a path, absolute or not."""
    names = {path, os.path.abspath(path)}
    with suppress(OSError), open(f"{proc}/net/unix", errors="surrogateescape") as table:
        for line in table:
            # Num RefCount Protocol Flags Type St Inode Path; the first line has these words
            words = line.rstrip("\n").split(maxsplit=7)
            if len(words) == 8 and words[7] in names and int(words[5], 16) != _CONNECTED:
                yield int(words[6])


def _is_vsock(fd: str) -> bool:
    # Ask sockets only: the server of a network file system could delay the answer.
    with suppress(OSError):
        if _target(fd).startswith("socket:"):
            return os.getxattr(fd, _PROTOCOL_NAME).rstrip(b"\0") == b"AF_VSOCK"
    return False


def _target(fd: str) -> str:
    try:
        return os.readlink(fd)
    except OSError:
        return ""


def _processes(has: Callable[[str], bool], proc: str) -> list[int]:
    """Other processes with a matching descriptor, if this user can see it and time allows."""
    until = time.monotonic() + _DEADLINE
    return [
        int(pid)
        for pid in _list(proc)
        if pid.isdecimal() and int(pid) != os.getpid() and time.monotonic() < until
        if any(has(f"{proc}/{pid}/fd/{fd}") for fd in _list(f"{proc}/{pid}/fd"))
    ]


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
    # A process chooses its own name: it could contain escape sequences.
    return f"process {pid} ({''.join(char if char.isprintable() else '?' for char in name)})"
