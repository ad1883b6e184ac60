# SPDX-License-Identifier: Apache-2.0
"""Listen on all addresses, or on none. It uses plain ``socket``, without trio."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from functools import partial

from ..addresses import (
    CID_ANY,
    PORT_ANY,
    Address,
    HybridAddress,
    InheritedSocket,
    NamedDescriptor,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from ..errors import AddressError, UsageError
from ..remedies import listen_error
from . import unixfile
from .listener import Listener
from .syscalls import AF_VSOCK, new_socket, sockaddr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Final

NOWHERE: Final = "none"
"""Passed instead of addresses to a server that starts without one."""

_BACKLOG: Final = 4096  # the default of the kernel's own limit, net.core.somaxconn
_GROUP_MAX: Final = 2**32 - 2  # to chown(2), -1 means no change

Target = Address | socket.socket | Listener
ListenTarget = str | Address | socket.socket | Listener
"""What to listen on: an address (text or object), a listening socket, or a ``Listener``."""


def open_listeners(
    listen: Iterable[ListenTarget],
    *,
    socket_mode: int = 0o600,
    socket_group: int | None = None,
    may_wait: bool = True,
) -> list[Listener]:
    """Listen on all addresses, or on none if one fails, and return the listeners.

    A dead socket file, for example of a killed process, is replaced. A socket file on which another
    process listens, and a file that is not a socket, are left alone.

    Args:
        listen: Addresses (text or objects), listening sockets, or listeners. The call owns these
            sockets and listeners: it closes them if it fails.
        socket_mode: Permission bits of new socket files.
        socket_group: Numeric group ID of new socket files; None leaves it unchanged.
        may_wait: Block for up to 1 s if another process has locked the directory of a dead socket
            file. If false, fail at once.

    Returns:
        The listeners, in the order of ``listen``. Peers can connect to them already.

    Raises:
        AddressError: A text is not an address, or a port of AF_VSOCK is 4294967295.
        UsageError: Two addresses exclude each other, or are the same; or ``socket_mode``,
            ``socket_group`` or an environment variable of socket activation is wrong.
        ListenError: nitrohb cannot listen on an address. The message says why, and what to do.
    """
    targets = list(listen)
    with closing_stack(targets) as opened:
        if not _is_number(socket_mode, 0o777):
            raise UsageError(
                f"socket_mode cannot be {socket_mode!r}\nPass at most 0o777, for example 0o660."
            )
        if socket_group is not None and not _is_number(socket_group, _GROUP_MAX):
            raise UsageError(f"socket_group cannot be {socket_group!r}\nPass a numeric group ID.")
        listeners: list[Listener] = []
        for target in resolve(targets):
            listener = _open(target, socket_mode, socket_group, may_wait)
            opened.callback(listener.close)
            listeners.append(listener)
        opened.pop_all()
    return listeners


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int) and 0 <= value <= most


def closing_stack(targets: Iterable[ListenTarget]) -> ExitStack:
    """Return a stack that closes the sockets and listeners among the targets."""
    stack = ExitStack()
    for target in targets:
        if isinstance(target, socket.socket | Listener):
            stack.callback(target.close)
    return stack


_Resolved = VsockAddress | UnixAddress | HybridAddress | InheritedSocket | socket.socket | Listener


def resolve(targets: Iterable[ListenTarget]) -> list[_Resolved]:
    """Parse texts, look up names of sockets, and reject a target that is named twice.

    Raises:
        AddressError: A text is not an address.
        UsageError: An address is named twice, or an environment variable of socket activation is
            wrong.
        ListenError: No socket has a name, or several have it.
    """
    resolved = [_look_up_name(_parse(target)) for target in targets]
    check_distinct(resolved)
    return resolved


def _parse(target: object) -> Target:
    if isinstance(target, str):
        return parse_address(target)
    if isinstance(target, Target):
        return target
    raise UsageError(
        f"cannot listen on {target!r}\n"
        "Pass an address (text or object), a listening socket or a Listener."
    )


def _look_up_name(target: Target) -> _Resolved:
    if not isinstance(target, NamedDescriptor):
        return target
    from .activation import find_named  # rarely needed

    return find_named(target)


def where_bound(listener: Listener) -> Address:
    """Return where an inherited socket is bound, because its descriptor tells people nothing.

    The address of any other listener is returned unchanged, and so is that of a socket with an
    abstract name or a relative path.
    """
    if isinstance(listener.address, InheritedSocket):
        with suppress(AddressError):
            name = listener.sock.getsockname()
            if listener.has_cids:
                return VsockAddress(*name)
            if isinstance(name, str) and os.path.isabs(name):
                return UnixAddress(name)
    return listener.address


def require_allowable(
    targets: Iterable[Target], cids: Collection[int] | None, uids: Collection[int] | None
) -> None:
    """Reject a target that would answer no peer, because the only allow-list is of another kind.

    Peers have CIDs on AF_VSOCK, and user IDs on a Unix socket. The kind of an inherited socket is
    known only after it is opened as a listener.

    Raises:
        UsageError: Only CIDs are allowed and a target is a Unix socket, or the other way round.
    """
    if bool(cids) == bool(uids):
        return
    for target in targets:
        if isinstance(target, Listener):
            has_cids = target.has_cids
        elif isinstance(target, InheritedSocket | NamedDescriptor | socket.socket):
            continue
        else:
            has_cids = isinstance(target, VsockAddress)
        if has_cids and not cids:
            raise UsageError(
                f"cannot listen on {address_of(target)}: peers on vsock have no uid, and only uids"
                " are allowed\nAllow CIDs, too (--allow-cid, allow_cids), or listen on Unix"
                " sockets only."
            )
        if not has_cids and not uids:
            raise UsageError(
                f"cannot listen on {address_of(target)}: peers of a Unix socket have no CID, and"
                " only CIDs are allowed\nAllow uids, too (--allow-uid, allow_uids), or listen on"
                " vsock only."
            )


def check_distinct(targets: Iterable[Target]) -> None:
    """Raise UsageError if nitrohb cannot listen on two of the targets at the same time."""
    seen = dict[object, list[Address]]()
    for address in map(address_of, targets):
        others = seen.setdefault(_conflict_key(address), [])
        for other in others:
            if other == address:
                raise UsageError(f"cannot listen on {address}: it is named twice\nName it once.")
            if not _can_coexist(other, address):
                why = _explain_conflict(address)
                raise UsageError(
                    f"cannot listen on both {other} and {address}: {why}\nUse only one of the two."
                )
        others.append(address)


def _conflict_key(address: Address) -> object:
    """Return a key that two addresses share if they might exclude each other."""
    match address:
        case VsockAddress():
            return address.port
        case UnixAddress() | HybridAddress():
            directory, name = os.path.split(address.path)
            return os.path.join(os.path.realpath(directory), name)
        case _:
            return address


def _explain_conflict(address: Address) -> str:
    if isinstance(address, VsockAddress):
        return f"vsock::{address.port} takes the port on every CID"
    return f"both are {_conflict_key(address)}"


def _can_coexist(one: Address, other: Address) -> bool:
    """Whether nitrohb can listen on two different addresses with the same key."""
    return all(isinstance(each, VsockAddress) and each.cid != CID_ANY for each in (one, other))


def address_of(target: Target) -> Address:
    """Return the address of a target. That of a socket is its descriptor."""
    match target:
        case Listener():
            return target.address
        case socket.socket():
            return InheritedSocket(target.fileno())
        case _:
            return target


def _open(target: _Resolved, mode: int, group: int | None, may_wait: bool) -> Listener:
    if isinstance(target, Listener):
        return target
    try:
        match target:
            case VsockAddress():
                return Listener(target, _open_vsock(target))
            case UnixAddress() | HybridAddress():
                return _open_unix(target, unixfile.absolute(target.path), mode, group, may_wait)
            case InheritedSocket():
                return Listener(target, _adopt(target.fd))
            case _:
                return Listener(address_of(target), _checked_socket(target))
    except OSError as error:
        number = error.errno or 0
        raise listen_error(address_of(target), number, _local_cid_hint(number)) from error


def _local_cid_hint(number: int) -> int | None:
    """Return the CID of this machine, to suggest it in place of a wrong one."""
    if number == errno.EADDRNOTAVAIL:
        from .vsock import read_local_cid  # rarely needed

        with suppress(OSError):
            cid = read_local_cid()
            return None if cid == CID_ANY else cid
    return None


def _open_vsock(address: VsockAddress) -> socket.socket:
    if address.port == PORT_ANY:
        raise AddressError(
            f"{address} lets the kernel choose the port, and no enclave would know it\n"
            "Name a port (enclaves use 9000)."
        )
    with ExitStack() as undo:
        sock = undo.enter_context(new_socket(address))
        sock.bind(sockaddr(address))
        sock.listen(_BACKLOG)
        undo.pop_all()
    return sock


def _open_unix(
    address: UnixAddress | HybridAddress,
    file: str,
    mode: int,
    group: int | None,
    may_wait: bool,
) -> Listener:
    # The written path can be shorter, but is wrong if this process has changed its directory.
    path = address.path if unixfile.absolute(address.path) == file else file
    with ExitStack() as undo:
        sock = undo.enter_context(new_socket(address))
        # On Linux, bind(2) gives the file the mode of the socket, minus the umask. So other users
        # can never connect, not even for a moment.
        os.fchmod(sock.fileno(), 0o600)
        unixfile.bind(sock, path, unixfile.LOCK_ATTEMPTS if may_wait else 1)
        undo.callback(unixfile.remove_own, path, unixfile.identity(path))
        if mode != 0o600 or group is not None:
            unixfile.set_permissions(path, mode, group)
        sock.listen(_BACKLOG)
        reopen = partial(_reopen_unix, address, file, mode, group)
        listener = Listener(address, sock, path=file, reopen=reopen)
        undo.pop_all()
    return listener


def _reopen_unix(
    address: UnixAddress | HybridAddress, file: str, mode: int, group: int | None
) -> Listener:
    """Listen again, without waiting, because the server answers other enclaves meanwhile."""
    try:
        return _open_unix(address, file, mode, group, may_wait=False)
    except OSError as error:  # Python rejects a path that is too long, without an errno
        raise listen_error(address, error.errno or errno.ENAMETOOLONG) from error


def _adopt(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    try:
        return _checked_socket(sock)
    except OSError:
        sock.detach()  # leave the descriptor open: it belongs to the caller
        raise


def _checked_socket(sock: socket.socket) -> socket.socket:
    if sock.type != socket.SOCK_STREAM:
        raise OSError(errno.EPROTOTYPE, "not a stream socket")
    if sock.family not in (AF_VSOCK, socket.AF_UNIX):
        raise OSError(errno.EAFNOSUPPORT, "neither AF_VSOCK nor AF_UNIX")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "not listening")
    sock.set_inheritable(False)
    return sock
