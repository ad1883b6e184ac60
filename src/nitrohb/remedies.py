# SPDX-License-Identifier: Apache-2.0
"""What a system error means for an address, and what a person can do about it.

This is the one place that looks at an error number for people's sake. The facts about AF_VSOCK
were measured on Linux 6.1; those about Unix sockets are in unix(7).
"""

from __future__ import annotations

import errno
import os

from .addresses import HybridAddress, InheritedSocket, UnixAddress, VsockAddress
from .errors import ConnectError, ListenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .addresses import Address

    _Advice = tuple[str, str]  # what is wrong, and what to do about it

__all__ = [
    "LOOPBACK_CID",
    "NO_AF_VSOCK",
    "SAME_CIDS",
    "api_connect_error",
    "connect_error",
    "listen_error",
    "tcp_listen_error",
]

NO_AF_VSOCK: Final = -1
"""Stands where an errno does when Python itself was built without ``socket.AF_VSOCK``."""

LOOPBACK_CID: Final = 1
"""VMADDR_CID_LOCAL of linux/vm_sockets.h: who connects over the loopback has this CID."""

SAME_CIDS: Final = (
    f"every VM that is forwarded over the loopback (forward-cid=1 of vhost-device-vsock) is seen"
    f" as CID {LOOPBACK_CID}, so that CIDs do not tell enclaves apart here\n"
    "Ask for no CID, but give each enclave a listen address of its own; or run nitrohb in a sibling"
    " VM (guest-cid=3), where each enclave has its own CID."
)
"""Why a CID that is asked for may never be seen, and what to do about it (in the second line)."""

_ANY: Final = {
    errno.EMFILE: ("this process has too many open files", "Raise its limit (ulimit -n)."),
    errno.ENFILE: ("the system has too many open files", "Raise the sysctl fs.file-max."),
}

_VSOCK: Final = _ANY | {
    NO_AF_VSOCK: (
        "this Python was built without AF_VSOCK",
        "Use another Python (a distribution's own has it), or a unix: or hybrid: address.",
    ),
    errno.EAFNOSUPPORT: (
        "this kernel has no AF_VSOCK",
        "Load its module (modprobe vsock), or use a unix: or hybrid: address.",
    ),
    errno.EPERM: (
        "AF_VSOCK is not permitted here; in a container its seccomp profile is the likely cause"
        " (Docker's default profile blocks it)",
        "Allow AF_VSOCK in that profile, or pass a listening socket in (socket activation, fd:N).",
    ),
}

_VSOCK_LISTEN: Final = _VSOCK | {
    errno.EADDRNOTAVAIL: (
        "CID {cid} is not a CID of this machine",
        "Name the local CID, or write vsock::{port} to listen on every one.",
    ),
    errno.EADDRINUSE: (
        "port {port} is taken; a listener on any CID takes a port for all of them",
        "Stop the other listener: another nitrohb, or nitro-cli or QEMU -M nitro in the middle of a"
        " launch, which frees the port when the launch is over.",
    ),
    errno.EACCES: (
        "ports below 1024 need a privilege",
        "Use a port from 1024 up (enclaves use 9000), or grant CAP_NET_BIND_SERVICE.",
    ),
}

_LOOPBACK_MISSING: Final = (
    "CID 1 is the loopback, and this kernel has not loaded it",
    "Load its module (modprobe vsock_loopback), or write vsock::{port}.",
)

_VSOCK_CONNECT: Final = _VSOCK | {
    errno.ECONNRESET: (
        "CID {cid} has no listener on port {port}",
        "Start the listener first: nitrohb serve -l vsock::{port} on the machine with that CID.",
    ),
    errno.ENODEV: (
        "CID {cid} cannot be reached from here",
        "Check the CID (an enclave sees its parent as 3), and that the vsock transport is loaded.",
    ),
    errno.ETIMEDOUT: (
        "CID {cid} does not answer",
        "Check the CID (an enclave sees its parent as 3), and that the machine is running.",
    ),
}

_UNIX: Final = _ANY | {
    errno.ENOENT: ("{directory} does not exist", "Create it first: mkdir -p {directory}"),
    errno.ENOTDIR: ("{directory} is not a directory", "Choose another path."),
    errno.EACCES: (
        "its socket file may not be created or replaced there",
        "Choose a directory in which you may write, or change its owner or mode.",
    ),
    errno.EPERM: (
        "its socket file may not be created there, or not be given that group",
        "Choose a group of which you are a member, or a directory in which you may write.",
    ),
    errno.EROFS: (
        "{directory} is on a read-only file system",
        "Choose a directory in which you may write.",
    ),
    errno.EADDRINUSE: (
        "another process listens there",
        "Stop it, or choose another path. (Its socket file was left alone.)",
    ),
    errno.EEXIST: (
        "{path} exists and is not a socket",
        "Move it away, or choose another path: nitrohb removes nothing but dead sockets.",
    ),
    errno.EWOULDBLOCK: (
        "another process has locked {directory}, in which a dead socket is to be replaced",
        "Try again, or remove {path} yourself if nobody listens there.",
    ),
}

_UNIX_CONNECT: Final = _UNIX | {
    errno.ENOENT: ("{path} does not exist", "Start the listener first: nitrohb serve -l {address}"),
    errno.ECONNREFUSED: (
        "nobody listens there",
        "Start the listener first: nitrohb serve -l {address}",
    ),
    errno.EACCES: (
        "its socket file may not be used by this user",
        "Run as its owner, or start the listener with --socket-mode and --socket-group.",
    ),
    errno.EPROTOTYPE: ("it is not a stream socket", "Name the socket of a heartbeat server."),
    errno.EAGAIN: (
        "too many connections wait there already",
        "See why its server does not accept them.",
    ),
}

# What can become of a socket that was passed in, and that is called by where it is bound.
_BROKEN: Final = _ANY | {
    errno.ENOTSOCK: ("it is not a socket", "Pass a listening socket in under that number."),
    errno.ESHUTDOWN: (
        "another process that holds it has shut it down",
        "Pass a socket in that stays open.",
    ),
}

_INHERITED: Final = _BROKEN | {
    errno.EBADF: (
        "this process has no open descriptor {fd}",
        "Pass a listening socket in under that number; systemd's socket activation begins at fd:3.",
    ),
    errno.EINVAL: (
        "it is a socket that does not listen",
        "Pass a socket on which listen() has been called.",
    ),
    errno.EPROTOTYPE: ("it is not a stream socket", "Pass a SOCK_STREAM socket."),
    errno.EAFNOSUPPORT: (
        "it is neither a Unix socket nor an AF_VSOCK one that this Python knows",
        "Pass a socket of one of these families.",
    ),
}

_TCP_LISTEN: Final = _ANY | {
    errno.EADDRINUSE: (
        "another process listens on that port",
        "Stop it, or choose another port.",
    ),
    errno.EADDRNOTAVAIL: (
        "that is no address of this machine",
        "Use 127.0.0.1:PORT, or a Unix socket.",
    ),
    errno.EACCES: (
        "ports below 1024 need a privilege",
        "Use a port from 1024 up, or grant CAP_NET_BIND_SERVICE.",
    ),
    errno.EAFNOSUPPORT: (
        "this machine does not have that kind of address",
        "Use 127.0.0.1:PORT, or a Unix socket.",
    ),
}

_API_CONNECT: Final = _ANY | {
    errno.ENOENT: (
        "there is no such socket",
        "Start the server with it first: nitrohb serve --keep --api {address}",
    ),
    errno.ECONNREFUSED: (
        "no server runs there",
        "Start it first: nitrohb serve --keep --api {address}",
    ),
    errno.EACCES: (
        "its socket file may not be used by this user",
        "Run as its owner, or start the server with --api-mode and --api-group.",
    ),
}


def listen_error(address: Address, number: int) -> ListenError:
    """Say why an address cannot be listened on, and what helps.

    Args:
        address: The address.
        number: The errno, or :data:`NO_AF_VSOCK`.
    """
    match address:
        case VsockAddress(cid) if (cid, number) == (LOOPBACK_CID, errno.EADDRNOTAVAIL):
            table: dict[int, _Advice] = {number: _LOOPBACK_MISSING}
        case VsockAddress() | UnixAddress() if number in _BROKEN:
            table = _BROKEN
        case VsockAddress():
            table = _VSOCK_LISTEN
        case InheritedSocket():
            table = _INHERITED
        case _:
            table = _UNIX
    return ListenError(str(address), _real(number), *_advise(table, address, number))


def connect_error(address: Address, number: int) -> ConnectError:
    """Say why an address cannot be connected to, and what helps.

    Args:
        address: The address.
        number: The errno, or :data:`NO_AF_VSOCK`.
    """
    table = _VSOCK_CONNECT if isinstance(address, VsockAddress) else _UNIX_CONNECT
    return ConnectError(str(address), _real(number), *_advise(table, address, number))


def tcp_listen_error(address: object, number: int) -> ListenError:
    """Say why the interface cannot listen on a TCP address, and what helps."""
    return ListenError(str(address), number, *_look_up(_TCP_LISTEN, number, {}))


def api_connect_error(address: object, number: int) -> ConnectError:
    """Say why the interface of a running server cannot be reached, and what helps."""
    facts: dict[str, object] = {"address": address}
    return ConnectError(str(address), number, *_look_up(_API_CONNECT, number, facts))


def _real(number: int) -> int | None:
    return None if number == NO_AF_VSOCK else number


def _advise(table: dict[int, _Advice], address: Address, number: int) -> _Advice:
    return _look_up(table, number, _facts(address))


def _look_up(table: dict[int, _Advice], number: int, facts: dict[str, object]) -> _Advice:
    if number not in table:
        name = errno.errorcode.get(number, "unknown")
        return (f"{os.strerror(number)} ({name})", "Nothing more is known about this error.")
    reason, remedy = (text.format_map(facts) for text in table[number])
    name = "" if number == NO_AF_VSOCK else f" ({errno.errorcode[number]})"
    return (reason + name, remedy)


def _facts(address: Address) -> dict[str, object]:
    facts: dict[str, object] = {"address": address}
    facts |= {name: getattr(address, name) for name in address.__match_args__}
    if isinstance(address, UnixAddress | HybridAddress):
        facts |= {"path": address.path, "directory": os.path.dirname(address.path) or "."}
    return facts
