# SPDX-License-Identifier: Apache-2.0
"""What a system error means for an address, and what a person can do about it.

This is the one place that looks at an error number for people's sake. The facts about AF_VSOCK
were measured on Linux 6.1; those about Unix sockets are in unix(7).
"""

from __future__ import annotations

import errno
import os
import stat

from .addresses import HybridAddress, UnixAddress, VsockAddress
from .errors import ConnectError, ListenError, NitrohbError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .addresses import Address

    _Advice = tuple[str, str]  # what is wrong, and what to do about it

__all__ = [
    "LOOPBACK_CID",
    "NO_AF_VSOCK",
    "SAME_CIDS",
    "advice_from",
    "connect_error",
    "is_lack_of_threads",
    "lack_error",
    "listen_error",
    "remedy_for",
    "start_advice",
    "vsock_advice",
    "without_doctor",
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

_UNPRIVILEGED_PORT: Final = 1024  # LAST_RESERVED_PORT of the kernel's af_vsock.c is 1023

# These lead to the doctor, who leaves them out.
_MORE: Final = (
    " nitrohb doctor tells what this machine can do; nitrohb demo shows a heartbeat on any machine."
)
_WHO: Final = " Who it is: nitrohb doctor -l {shell_address}"
_LACKS: Final = " What this machine lacks: nitrohb doctor"

_ANY: Final = {
    errno.EMFILE: ("this process has too many open files", "Raise its limit (ulimit -n)."),
    errno.ENFILE: ("the system has too many open files", "Raise the sysctl fs.file-max."),
}

_UNKNOWN: Final = f"No remedy is known for this error.{_LACKS}"

_VSOCK: Final = _ANY | {
    NO_AF_VSOCK: (
        "this Python was built without AF_VSOCK",
        "Use another Python (a distribution's own has it), or a unix: or hybrid: address.{more}",
    ),
    errno.EAFNOSUPPORT: (
        "this kernel has no AF_VSOCK",
        "Load its module (modprobe vsock); in a systemd unit, RestrictAddressFamilies= must have"
        " AF_VSOCK, too. Or use a unix: or hybrid: address.{more}",
    ),
    errno.EPERM: (
        "AF_VSOCK is not permitted here; in a container its seccomp profile is the likely cause"
        " (Docker's default profile blocks it)",
        "Allow AF_VSOCK in that profile, or use a unix: or hybrid: address.{more}",
    ),
    errno.EACCES: (
        "a security module (SELinux, AppArmor) does not permit AF_VSOCK here",
        "Allow it in that module's policy, or use a unix: or hybrid: address.{more}",
    ),
}

_VSOCK_LISTEN: Final = _VSOCK | {
    errno.EPERM: (
        _VSOCK[errno.EPERM][0],
        "Allow AF_VSOCK in that profile, pass a listening socket in (socket activation, fd:N), or"
        " use a unix: or hybrid: address.{more}",
    ),
    errno.EADDRNOTAVAIL: (
        "CID {cid} is not a CID of this machine",
        "Name the local CID{local}, or write vsock::{port} to listen on every one.",
    ),
    errno.EADDRINUSE: (
        "port {port} is taken; a listener on any CID takes a port for all of them",
        "Stop the other listener: another nitrohb, or nitro-cli or QEMU -M nitro in the middle of a"
        f" launch, which frees the port when the launch is over.{_WHO}",
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
    errno.ENOENT: ("{directory} does not exist", "Create it first: mkdir -p {shell_directory}"),
    errno.ENOTDIR: ("{directory} is not a directory", "Choose another path."),
    errno.EACCES: (
        "its socket file may not be created or replaced there",
        "Choose a directory in which you may write, or change its owner or mode.",
    ),
    errno.EPERM: (
        "its socket file may not be created there, or not be given the group that was asked for",
        "Choose a group of which you are a member, or a directory in which you may write.",
    ),
    errno.EROFS: (
        "{directory} is on a read-only file system",
        "Choose a directory in which you may write.",
    ),
    errno.EADDRINUSE: (
        "another process listens there",
        f"Stop it, or choose another path. (Its socket file was left alone.){_WHO}",
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

_NO_HOME: Final = (
    "{path} is no path in your home directory: a shell replaces ~ only at the beginning of a word",
    "Write the whole path, or $HOME for ~, as in unix:$HOME/nitrohb.sock.",
)

_DIRECTORY: Final = ("{path} is a directory", "Name a file in it, one that does not exist.")

_FOREIGN: Final = (
    "a socket file is there that this user may not replace",
    "Have its owner remove it, or choose another path.",
)

_NO_ENTRY: Final = (
    "this user may not enter {directory}",
    "Run as a user who may, or have the listener put its socket elsewhere.",
)

_REMOVED: Final = ("the current directory has been removed", "Change to one that exists.")

_NO_PLACE: Final = (
    "{directory} takes no socket files",
    "Choose another directory, for example /run or /tmp.",
)

_NO_SOCKET: Final = ("{path} is not a socket", "Name the socket of a heartbeat server.")

_LISTEN_FIRST: Final = "Start the listener first: nitrohb serve -l {shell_address}"

_UNIX_CONNECT: Final = _UNIX | {
    errno.ENOENT: ("{path} does not exist", _LISTEN_FIRST),
    errno.ECONNREFUSED: ("nobody listens there", _LISTEN_FIRST),
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

_START: Final = _ANY | {
    errno.ENOENT: ("there is no such command", "Check its name, or write its whole path."),
    errno.ENOTDIR: ("a part of its path is no directory", "Check its path."),
    errno.EACCES: ("this user may not run it", "Make it executable (chmod +x), or name another."),
    errno.ENOEXEC: (
        "it is no program that this machine can run",
        "A script begins with the line that names its interpreter, say #!/bin/sh.",
    ),
    errno.EAGAIN: (
        "this user, or this container, may have no more processes",
        "Raise the limit (ulimit -u, or the container's limit of pids).",
    ),
}

_NO_PROGRAM: Final = ("it is a directory", "Name a program in it.")

_NO_INTERPRETER: Final = (
    "the interpreter that its first line (#!) names does not exist",
    "Install that, or correct the line (a carriage return at its end counts, too).",
)

_NO_NAME: Final = ("its name is empty", "Name a command after --.")

_ONLY_HERE: Final = (
    "there is no such command in PATH",
    "For what is in this directory write ./{shell_command}",
)

_CONDITIONS: Final = {
    "no loopback transport": (
        "Needed where connections come over CID 1, as with QEMU's -M nitro-enclave and"
        " forward-cid=1: modprobe vsock_loopback"
    ),
    "no guest transport": (
        "Needed on an EC2 instance that starts enclaves: modprobe vmw_vsock_virtio_transport"
    ),
    "no host transport": "Needed for VMs with a vhost-vsock device: modprobe vhost_vsock",
    "no /dev/vsock": (
        "Only the local CID is read from it. It comes with the kernel's vsock module; a container"
        " needs it passed in (--device /dev/vsock)."
    ),
    "no /dev/vhost-vsock": (
        "Needed by QEMU's vhost-vsock devices, not by vhost-device-vsock: modprobe vhost_vsock"
    ),
    "no /dev/nitro_enclaves": (
        "Needed to start real enclaves: use an EC2 instance with enclaves enabled, and"
        " modprobe nitro_enclaves"
    ),
    "device of a group": (
        "If this user is to use it, add them to the device's group (ls -l {path}), or run as root."
    ),
    "device of its owner": (
        "If this user is to use it, give the device a group of theirs (chgrp GROUP {path}) and the"
        " mode 0660, by a rule of udev if that is to stay; or run as root."
    ),
    "device refused": (
        "Pass it in, if this is a container (--device {path}); or allow it in the policy of the"
        " security module (SELinux, AppArmor)."
    ),
    "family refused": (
        "Name AF_VSOCK in RestrictAddressFamilies= of the systemd unit, or allow it in the seccomp"
        " profile."
    ),
    "local namespace": (
        "Run nitrohb in the network namespace of the VMM. A real enclave reaches only the host's"
        " own (for a container: --network host)."
    ),
    "few descriptors": (
        "Raise the limit (ulimit -n {wanted}, or LimitNOFILE={wanted} of a systemd unit), or lower"
        " --max-pending."
    ),
    "no thread": (
        "Raise this user's limit of processes (ulimit -u) or the container's (--pids-limit), or"
        " that of memory (ulimit -v)."
    ),
    "no temporary directory": (
        "Name a directory in which you may write: TMPDIR=DIR nitrohb {command}"
    ),
    "heartbeat unanswered": (
        "This should work on any machine. Please report it, with what nitrohb doctor"
        " --format json prints."
    ),
    "loopback unanswered": (
        "A security module (SELinux, AppArmor) may be in the way. Enclaves that do not come"
        " over CID 1 are not concerned."
    ),
}


def listen_error(address: Address, number: int, local_cid: int | None = None) -> ListenError:
    """Say why an address cannot be listened on, and what helps.

    Args:
        address: The address.
        number: The errno, or :data:`NO_AF_VSOCK`.
        local_cid: The machine's own CID, if it is known: what to name instead of another's.
    """
    match address:
        case VsockAddress(cid) if (cid, number) == (LOOPBACK_CID, errno.EADDRNOTAVAIL):
            table: dict[int, _Advice] = {number: _LOOPBACK_MISSING}
        case VsockAddress() | UnixAddress() if number in _BROKEN:
            table = _BROKEN
        case VsockAddress(_, port) if number == errno.EACCES and port >= _UNPRIVILEGED_PORT:
            table = _VSOCK
        case VsockAddress():
            table = _VSOCK_LISTEN
        case UnixAddress() | HybridAddress():
            table = _UNIX | _seen_at(address.path)
        case _:
            table = _INHERITED
    facts = _facts(address) | {"local": "" if local_cid is None else f", {local_cid}"}
    return ListenError(str(address), _real(number), *_look_up(table, number, facts))


def connect_error(address: Address, number: int) -> ConnectError:
    """Say why an address cannot be connected to, and what helps.

    Args:
        address: The address.
        number: The errno, or :data:`NO_AF_VSOCK`.
    """
    match address:
        case UnixAddress() | HybridAddress():
            table = _UNIX_CONNECT | _seen_for(address.path)
        case _:
            table = _VSOCK_CONNECT
    return ConnectError(str(address), _real(number), *_look_up(table, number, _facts(address)))


def advice_from(table: dict[int, _Advice], number: int, address: object) -> _Advice:
    """Return the reason and the remedy that a table of the caller has for an error number.

    The table's texts can contain ``{shell_address}``. A lack of descriptors need not be in it.
    """
    return _look_up(_ANY | table, number, _common(address))


def start_advice(command: str, number: int) -> _Advice:
    """Say why a command cannot be started, and what helps.

    Args:
        command: Its name, or path.
        number: The errno of execve(2) or fork(2).
    """
    import shlex

    seen: dict[int, _Advice] = {}
    if not command:
        seen = dict.fromkeys((errno.EACCES, errno.ENOENT), _NO_NAME)
    elif "/" not in command and os.path.exists(command):  # the system looks along PATH alone
        seen = {errno.ENOENT: _ONLY_HERE}
    elif os.path.isdir(command):
        seen = {errno.EACCES: _NO_PROGRAM}
    elif os.path.exists(command):
        seen = {errno.ENOENT: _NO_INTERPRETER}
    return _look_up(_START | seen, number, {"shell_command": shlex.quote(command)})


def without_doctor(remedy: str) -> str:
    """A remedy for somebody whom the doctor tells it, and who need not be sent there."""
    for beginning in (_MORE, _WHO, _LACKS):
        remedy = remedy.partition(beginning.partition("{")[0])[0]
    return remedy


def lack_error(number: int | None) -> NitrohbError | None:
    """Say what a lack of descriptors means, wherever it was met; None if it is another error."""
    if number not in _ANY:
        return None
    return NitrohbError("\n".join(_look_up(_ANY, number, {})))


def is_lack_of_threads(error: RuntimeError) -> bool:
    """Whether an error is Python's for a thread that the system did not let it start."""
    return str(error).startswith("can't start new thread")  # of its _threadmodule.c


def _seen_at(path: str) -> dict[int, _Advice]:
    """What a look at a path tells beyond the error number, when nobody can listen there."""
    directory = os.path.dirname(path) or "."
    if path.startswith("~"):
        return {errno.ENOENT: _NO_HOME}
    seen: dict[int, _Advice] = {}
    if os.path.isdir(path):
        seen[errno.EEXIST] = _DIRECTORY
    elif os.path.lexists(path):
        seen[errno.EACCES] = _FOREIGN
    if os.path.isdir(directory):
        seen[errno.ENOENT] = _REMOVED if os.stat(directory).st_nlink == 0 else _NO_PLACE
    return seen


def _seen_for(path: str) -> dict[int, _Advice]:
    """What a look at a path tells beyond the error number, when nobody answers there."""
    if path.startswith("~"):
        return {errno.ENOENT: _NO_HOME}
    if not os.access(os.path.dirname(path) or ".", os.X_OK):
        return {errno.EACCES: _NO_ENTRY}
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        return {errno.ECONNREFUSED: _NO_SOCKET}
    return {}


def vsock_advice(number: int) -> _Advice:
    """Say why AF_VSOCK as a whole cannot be used, and what helps.

    Args:
        number: The errno of socket(2), or :data:`NO_AF_VSOCK`.
    """
    return _look_up(_VSOCK, number, {"more": ""})


def remedy_for(condition: str, **facts: object) -> str:
    """What helps where no call has failed, but something is missing.

    Args:
        condition: What is missing, one of the keys of the table.
        facts: What its text names.
    """
    return _CONDITIONS[condition].format_map(facts)


def _real(number: int) -> int | None:
    return None if number == NO_AF_VSOCK else number


def _look_up(table: dict[int, _Advice], number: int, facts: dict[str, object]) -> _Advice:
    if number not in table:
        name = errno.errorcode.get(number, "unknown")
        return (f"{os.strerror(number)} ({name})", _UNKNOWN)
    reason, remedy = (text.format_map(facts) for text in table[number])
    name = "" if number == NO_AF_VSOCK else f" ({errno.errorcode[number]})"
    return (reason + name, remedy)


def _facts(address: Address) -> dict[str, object]:
    import shlex  # here, for those who have made a mistake

    facts = _common(address) | {"more": _MORE}
    facts |= {name: getattr(address, name) for name in address.__match_args__}
    if isinstance(address, UnixAddress | HybridAddress):
        directory = os.path.dirname(address.path) or "."
        facts |= {
            "path": address.path,
            "directory": directory,
            "shell_directory": shlex.quote(directory),
        }
    return facts


def _common(address: object) -> dict[str, object]:
    import shlex

    return {"shell_address": shlex.quote(str(address))}
