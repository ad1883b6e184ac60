# SPDX-License-Identifier: Apache-2.0
"""Reasons and remedies: what an errno means for an address, and what the user can do about it.

Each row of a table has a reason, a remedy and, in some rows, a command that tells more. The facts
about AF_VSOCK were measured on Linux 6.1; those about Unix sockets are in unix(7).
"""

from __future__ import annotations

import errno
import os
import stat

from .addresses import HybridAddress, UnixAddress, VsockAddress
from .errors import ConnectError, ListenError, NitrohbError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Final

    from .addresses import Address

    _Row = tuple[str, ...]  # a reason, a remedy and perhaps a command, as formats
    _Table = Mapping[int, _Row]

NO_AF_VSOCK: Final = -1
"""Stands for an errno if Python was built without ``socket.AF_VSOCK``."""

LOOPBACK_CID: Final = 1
"""The CID of every client on the loopback (VMADDR_CID_LOCAL of linux/vm_sockets.h)."""

CID_ADVICE: Final = (
    f"every VM that is forwarded over the loopback (forward-cid=1 of vhost-device-vsock) has CID"
    f" {LOOPBACK_CID} here, so a CID does not identify an enclave\n"
    "Give each enclave its own listen address, and select by address. Or run nitrohb in a sibling"
    " VM (guest-cid=3), where each enclave has its own CID."
)
"""Why a requested CID might never appear, and on the second line what to do about it."""

LOCAL_ADVICE: Final = (
    "only clients in the same network namespace can connect (its vsock namespace is local)",
    "Run nitrohb in the network namespace of the VMM. For real enclaves, use that of the host"
    " (for a container: --network host).",
)
"""What a local vsock namespace (Linux 7.0) means for a listener, and what to do about it."""

_CHECK: Final = "Check this machine: nitrohb doctor"
_CHECK_OR_DEMO: Final = f"{_CHECK}. See a heartbeat on any machine: nitrohb demo"
_FIND_PROCESS: Final = "Find the process: nitrohb doctor -l {shell_address}"

_OR_UNIX: Final = "or use a unix: or hybrid: address."
_CHECK_CID: Final = (
    "Check the CID (an enclave sees its parent as 3). Check that the machine is running, and that"
    " the vsock transport is loaded."
)
_LISTEN_FIRST: Final = "Start the listener first: nitrohb serve -l {shell_address}"
_NAME_SOCKET: Final = "Name the socket of a heartbeat server."

_ANY: Final = {
    errno.EMFILE: ("this process has too many open files", "Raise its limit (ulimit -n)."),
    errno.ENFILE: ("the system has too many open files", "Raise the sysctl fs.file-max."),
}

_NO_ROWS: Final[_Table] = {}

_VSOCK: Final = _ANY | {
    NO_AF_VSOCK: (
        "this Python was built without AF_VSOCK",
        f"Use another Python, for example that of your distribution, {_OR_UNIX}",
        _CHECK_OR_DEMO,
    ),
    errno.EAFNOSUPPORT: (
        "this kernel has no AF_VSOCK",
        "Load its module (modprobe vsock). In a systemd unit, add AF_VSOCK to"
        " RestrictAddressFamilies=. Or use a unix: or hybrid: address.",
        _CHECK_OR_DEMO,
    ),
    errno.EPERM: (
        "AF_VSOCK is not permitted here; in a container, the usual cause is its seccomp profile"
        " (the default profile of Docker blocks AF_VSOCK)",
        f"Allow AF_VSOCK in that profile, {_OR_UNIX} To listen, you can also pass in a listening"
        " socket (socket activation, fd:N).",
        _CHECK_OR_DEMO,
    ),
    errno.EACCES: (
        "a security module (SELinux, AppArmor) does not permit AF_VSOCK here",
        f"Allow AF_VSOCK in its policy, {_OR_UNIX}",
        _CHECK_OR_DEMO,
    ),
}

# Also for vsock and Unix: an inherited socket gets the address to which it is bound.
_PASSED_IN: Final = _ANY | {
    errno.ENOTSOCK: ("it is not a socket", "Pass in a listening socket with that number."),
    errno.ESHUTDOWN: (
        "another process has shut the socket down",
        "Pass in a socket that stays open.",
    ),
}

_IF_NITROHB: Final = " If it is nitrohb, or systemd for nitrohb, you need no second server."

_VSOCK_LISTEN: Final = _VSOCK | {
    **_PASSED_IN,
    errno.EADDRNOTAVAIL: (
        "CID {cid} is not a CID of this machine",
        "Use the local CID{local}, or write vsock::{port} to listen on every CID.",
    ),
    errno.EADDRINUSE: (
        "port {port} is taken; a listener on vsock::{port} takes it on every CID",
        "Find the other listener (ss --vsock -lp, as root on the host) and stop it. If it is"
        " nitro-cli or QEMU -accel nitro, wait until its launch is over." + _IF_NITROHB,
        _FIND_PROCESS,
    ),
}

_LOW_PORT: Final = (
    "ports below 1024 need a privilege",
    "Use port 1024 or higher (enclaves use 9000), or grant CAP_NET_BIND_SERVICE.",
)

_NO_LOOPBACK: Final = (
    "CID 1 is the loopback, which this kernel has not loaded",
    "Load its module (modprobe vsock_loopback), or use vsock::{port}.",
)

_VSOCK_CONNECT: Final = _VSOCK | {
    errno.ECONNRESET: (
        "CID {cid} has no listener on port {port}",
        "Start the listener on that machine first: nitrohb serve -l vsock::{port}",
    ),
    errno.ENODEV: ("CID {cid} cannot be reached from here", _CHECK_CID),
    errno.ETIMEDOUT: (
        "CID {cid} does not answer",
        "Check that a server listens there: some VMMs drop a connection that nobody takes."
        f" {_CHECK_CID}",
    ),
}

# If the loopback is loaded, it resets the connection. If not, the kernel asks the hypervisor.
_LOOPBACK_CONNECT: Final = _VSOCK_CONNECT | dict.fromkeys(
    (errno.ENODEV, errno.ETIMEDOUT), (_NO_LOOPBACK[0], "Load its module: modprobe vsock_loopback")
)

_UNIX_LISTEN: Final = _PASSED_IN | {
    errno.ENOENT: ("{directory} does not exist", "Create it first: mkdir -p {shell_directory}"),
    errno.ENOTDIR: ("{directory} is not a directory", "Choose another path."),
    errno.EACCES: (
        "this user cannot create or replace the socket file",
        "Choose a directory that you can write to, or change its owner or mode.",
    ),
    errno.EPERM: (
        "this user cannot create the socket file, or cannot give it the requested group",
        "Choose a directory that you can write to, or a group that you are a member of.",
    ),
    errno.EROFS: (
        "{directory} is on a read-only file system",
        "Choose a directory that you can write to.",
    ),
    errno.EADDRINUSE: (
        "a process already uses that path",
        "Choose another path, or stop that process." + _IF_NITROHB,
        _FIND_PROCESS,
    ),
    errno.EEXIST: (
        "{path} exists and is not a socket",
        "Move it away, or choose another path. nitrohb replaces only dead socket files.",
    ),
    errno.EWOULDBLOCK: (
        "another process has locked {directory}, so the dead socket file in it cannot be replaced",
        "Try again, or remove {path} if nobody listens there.",
    ),
}

_UNIX_CONNECT: Final = _ANY | {
    errno.ENOENT: ("{path} does not exist", _LISTEN_FIRST),
    errno.ENOTDIR: _UNIX_LISTEN[errno.ENOTDIR],
    errno.ECONNREFUSED: ("nobody listens there", _LISTEN_FIRST),
    errno.EACCES: (
        "this user cannot use the socket file",
        "Run as its owner, or start the listener with --socket-mode and --socket-group.",
    ),
    errno.EPROTOTYPE: ("it is not a stream socket", _NAME_SOCKET),
    errno.EAGAIN: (
        "too many connections already wait there",
        "Check why the server does not accept them.",
    ),
}

_OTHER_USER: Final = (
    "If the VMM or vhost-device-vsock runs as another user, use --socket-mode 660 --socket-group"
    " GROUP (in a systemd socket unit, SocketMode= and SocketGroup=), and let it enter the"
    " directory."
)

_CLOSED_DIRECTORY: Final = (
    "If the VMM runs as another user, let it enter that directory (chgrp GROUP, chmod g+x), or"
    " choose another path."
)

# Reasons that follow from the path.
_NO_HOME: Final = (
    "{path} is not in your home directory: a shell replaces ~ only at the start of a word",
    "Write the absolute path, or use $HOME: unix:$HOME/nitrohb.sock",
)
_DIRECTORY: Final = ("{path} is a directory", "Name a new file in it, or remove it.")
_FOREIGN: Final = (
    "this user cannot replace the socket file",
    "Ask its owner to remove it, or choose another path.",
)
_UNFIT: Final = (
    "{directory} does not accept socket files",
    "Choose another directory, for example /run or /tmp.",
)
_NO_ENTRY: Final = (
    "this user cannot enter {directory}",
    "Run as a user who can, or move the socket of the listener.",
)
_NO_SOCKET: Final = ("{path} is not a socket", _NAME_SOCKET)

_INHERITED: Final = _PASSED_IN | {
    errno.EBADF: (
        "this process has no open descriptor {fd}",
        "Pass in a listening socket with that number. The first socket of systemd is fd:3.",
    ),
    errno.EINVAL: ("the socket does not listen", "Call listen() on it before you pass it in."),
    errno.EPROTOTYPE: ("it is not a stream socket", "Pass in a SOCK_STREAM socket."),
    errno.EAFNOSUPPORT: (
        "it is neither a Unix socket nor an AF_VSOCK socket that this Python supports",
        "Pass in a socket of one of these families.",
    ),
}


def listen_error(address: Address, number: int, local_cid: int | None = None) -> ListenError:
    """Return the error for a failure to listen on an address, with its remedy.

    Args:
        address: The address.
        number: The errno, or ``NO_AF_VSOCK``.
        local_cid: The CID of this machine, if it is known. The remedy suggests it.
    """
    table: _Table
    match address:
        case VsockAddress(cid, port):
            table = _VSOCK_LISTEN | _vsock_rows(cid, port)
        case UnixAddress() | HybridAddress():
            table = _UNIX_LISTEN | _listen_rows(address.path)
        case _:
            table = _INHERITED
    facts = _facts(address) | {"local": "" if local_cid is None else f", {local_cid}"}
    real = None if number == NO_AF_VSOCK else number
    return ListenError(str(address), real, *_look_up(table, number, facts))


def connect_error(address: Address, number: int, rows: _Table = _NO_ROWS) -> ConnectError:
    """Return the error for a failure to connect to an address: see ``listen_error()``.

    On a Unix socket, ``rows`` replace those for the socket of a listener.
    """
    table: _Table = _VSOCK_CONNECT
    if isinstance(address, UnixAddress | HybridAddress):
        table = {**_UNIX_CONNECT, **rows, **_connect_rows(address.path)}
    elif isinstance(address, VsockAddress) and address.cid == LOOPBACK_CID:
        table = _LOOPBACK_CONNECT
    real = None if number == NO_AF_VSOCK else number
    return ConnectError(str(address), real, *_look_up(table, number, _facts(address)))


def advice_from(table: _Table, number: int, address: object) -> tuple[str, str]:
    """Return the reason and the remedy of an errno. Rows can contain ``{shell_address}``."""
    return _look_up({**_ANY, **table}, number, _common(address))[:2]


def who_may_connect(path: str) -> tuple[str, str | None]:
    """Return who may connect to a socket file and, if only its owner may, how to let others in.

    If only its owner can enter a directory of the path, other users cannot connect either.

    Raises:
        OSError: The file or a directory cannot be examined.
    """
    status = os.stat(path)
    mode = stat.S_IMODE(status.st_mode)
    seen = f"{path} has mode {mode:03o}, owner {status.st_uid} and group {status.st_gid}"
    if not mode & 0o022:
        return seen, _OTHER_USER
    for directory in _directories(path):
        found = os.stat(directory)
        if found.st_uid == status.st_uid and not found.st_mode & 0o011:
            return f"{seen}, but only its owner can enter {directory}", _CLOSED_DIRECTORY
    return seen, None


def _directories(path: str) -> Iterator[str]:
    """Yield the directories of a file, from the innermost to the root."""
    path = os.path.realpath(path)
    while (parent := os.path.dirname(path)) != path:
        yield (path := parent)


def descriptor_shortage(number: int | None) -> NitrohbError | None:
    """Return the error for a lack of descriptors; None for any other errno."""
    if number not in _ANY:
        return None
    reason, remedy, _ = _look_up(_ANY, number, {})
    return NitrohbError(f"cannot open another file or socket: {reason}\n{remedy}")


def is_lack_of_threads(error: RuntimeError) -> bool:
    """Whether Python raised this error because the system refused to start a thread."""
    return str(error).startswith("can't start new thread")  # of its _threadmodule.c


def vsock_advice(number: int) -> tuple[str, str]:
    """Return why socket(2) fails with this errno for AF_VSOCK, and what to do about it."""
    return _look_up(_VSOCK, number, {})[:2]


def _vsock_rows(cid: int, port: int) -> dict[int, _Row]:
    """Return more precise rows for this CID or port."""
    seen: dict[int, _Row] = {}
    if cid == LOOPBACK_CID:
        seen[errno.EADDRNOTAVAIL] = _NO_LOOPBACK
    if port < 1024:  # LAST_RESERVED_PORT of the kernel's af_vsock.c is 1023
        seen[errno.EACCES] = _LOW_PORT
    return seen


def _listen_rows(path: str) -> dict[int, _Row]:
    """Return more precise rows for this path, to listen on it."""
    if path.startswith("~"):
        return {errno.ENOENT: _NO_HOME}
    seen: dict[int, _Row] = {}
    if os.path.isdir(path):
        seen[errno.EEXIST] = _DIRECTORY
    elif os.path.lexists(path):
        seen[errno.EACCES] = _FOREIGN
    if os.path.isdir(os.path.dirname(path) or "."):
        seen[errno.ENOENT] = _UNFIT
    return seen


def _connect_rows(path: str) -> dict[int, _Row]:
    """Return more precise rows for this path, to connect to it."""
    if path.startswith("~"):
        return {errno.ENOENT: _NO_HOME}
    if not os.access(os.path.dirname(path) or ".", os.X_OK):
        return {errno.EACCES: _NO_ENTRY}
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        return {errno.ECONNREFUSED: _NO_SOCKET}
    return {}


def _look_up(table: _Table, number: int, facts: dict[str, object]) -> tuple[str, str, str]:
    """Return the reason, the remedy, and a command that tells more (can be empty)."""
    name = errno.errorcode.get(number, "unknown")
    if number not in table:
        return f"{os.strerror(number)} ({name})", "Look it up in errno(3).", _CHECK
    reason, remedy, see_also = (text.format_map(facts) for text in (*table[number], "")[:3])
    return (reason if number == NO_AF_VSOCK else f"{reason} ({name})"), remedy, see_also


def _facts(address: Address) -> dict[str, object]:
    """Return the values that the rows can contain."""
    import shlex  # needed only after an error

    facts = _common(address)
    facts |= {name: getattr(address, name) for name in address.__match_args__}
    if isinstance(address, UnixAddress | HybridAddress):
        directory = os.path.dirname(address.path) or "."
        facts |= {"path": address.path, "directory": directory}
        facts["shell_directory"] = shlex.quote(directory)
    return facts


def _common(address: object) -> dict[str, object]:
    import shlex

    return {"shell_address": shlex.quote(str(address))}
