# SPDX-License-Identifier: Apache-2.0
"""Listen on all of some addresses, or on none. Plain ``socket``, without trio."""

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
    NamedSocket,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from ..errors import AddressError, UsageError
from ..remedies import listen_error
from . import unixfile
from .listener import Listener
from .wire import AF_VSOCK, new_socket, sockaddr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

_BACKLOG: Final = 4096  # the kernel's own limit, net.core.somaxconn, is this by default


Target = Address | socket.socket | Listener
Listen = str | Target
"""What can be listened on: an address, written or parsed, or what is listening already."""


def open_listeners(
    listen: Iterable[Listen], *, socket_mode: int = 0o600, socket_group: int | None = None
) -> list[Listener]:
    """Listen on all of some addresses, or on none.

    A socket file that a killed predecessor left behind is replaced. One on which somebody listens
    is never touched, nor is a file that is no socket.

    Sockets and listeners that are handed in are closed if this fails, as are those that it opened:
    they are ours from the call on.

    Args:
        listen: Addresses, sockets that are already listening, or listeners.
        socket_mode: Permission bits of the socket files that are created.
        socket_group: Numeric group of the socket files that are created; None leaves it alone.

    Returns:
        The listeners, in the order of ``listen``. Every one accepts connections already.

    Raises:
        AddressError: A text is no address.
        UsageError: An address is named twice, or leaves its port open, or the variables of socket
            activation, if a name is to be found in them, cannot be understood.
        ListenError: An address cannot be listened on; says why, and what helps.
    """
    targets = list(listen)
    with take_over(targets) as opened:
        listeners: list[Listener] = []
        for target in resolve(targets):
            listener = _open(target, socket_mode, socket_group)
            opened.callback(listener.close)
            listeners.append(listener)
        opened.pop_all()
    return listeners


def take_over(targets: Iterable[Listen]) -> ExitStack:
    """Make the sockets and listeners among some targets ours: leaving the stack closes them."""
    stack = ExitStack()
    for target in targets:
        if isinstance(target, socket.socket | Listener):
            stack.callback(target.close)
    return stack


_Found = VsockAddress | UnixAddress | HybridAddress | InheritedSocket | socket.socket | Listener


def resolve(targets: Iterable[Listen]) -> list[_Found]:
    """Parse those targets that are text, find those that are names, refuse one that comes twice.

    Raises:
        AddressError: A text is no address.
        UsageError: An address is named twice, or the variables of socket activation cannot be
            understood.
        ListenError: A name is not that of one socket.
    """
    resolved = [_find(_resolve(target)) for target in targets]
    check_distinct(resolved)
    return resolved


def _resolve(target: object) -> Target:
    if isinstance(target, str):
        return parse_address(target)
    if isinstance(target, Target):
        return target
    raise UsageError(
        f"{target!r} is nothing to listen on: expected an address, as text or as an object, a"
        " socket that is listening, or a listener"
    )


def _find(target: Target) -> _Found:
    if not isinstance(target, NamedSocket):
        return target
    from .activation import find_named  # here, because most addresses are no names

    return find_named(target)


def where_bound(listener: Listener) -> Address:
    """Where an inherited socket is bound, for people: its descriptor tells them nothing.

    Any other listener's address is as it was written, and so is what cannot be told: an abstract
    name, or a relative path, which counts from where it was bound.
    """
    if isinstance(listener.address, InheritedSocket):
        with suppress(AddressError):
            name = listener.sock.getsockname()
            if listener.has_cids:
                return VsockAddress(*name)
            if isinstance(name, str) and os.path.isabs(name):
                return UnixAddress(name)
    return listener.address


def require_cids(targets: Iterable[Target]) -> None:
    """Refuse targets whose peers are known to have no CID, for which an allow-list is asked.

    Of an inherited socket that is known only once it has been opened as a listener.

    Raises:
        UsageError: A target is a Unix socket.
    """
    for target in targets:
        address = _address(target)
        lacking = isinstance(address, UnixAddress | HybridAddress)
        if lacking or (isinstance(target, Listener) and not target.has_cids):
            raise UsageError(
                f"{address} is a Unix socket, whose peers have no CID:"
                " a list of allowed CIDs works on vsock addresses only"
            )


def check_distinct(targets: Iterable[Target]) -> None:
    """Refuse what is named twice, be it in other words.

    Raises:
        UsageError: Two targets cannot be listened on at a time.
    """
    seen = dict[object, list[Address]]()
    for address in map(_address, targets):
        others = seen.setdefault(_place(address), [])
        for other in others:
            if other == address:
                raise UsageError(f"{address} is named twice: an address can be listened on once")
            if not _are_apart(other, address):
                raise UsageError(f"{other} and {address} exclude each other: {_why(address)}")
        others.append(address)


def _place(address: Address) -> object:
    """Where two addresses that have it in common may be in each other's way."""
    match address:
        case VsockAddress():
            return address.port
        case UnixAddress() | HybridAddress():
            directory, name = os.path.split(address.path)
            return os.path.join(os.path.realpath(directory), name)
        case _:
            return address


def _why(address: Address) -> str:
    if isinstance(address, VsockAddress):
        return "a listener on any CID takes a port for all of them. Name one of the two"
    return f"both are {_place(address)}. Name one of the two"


def _are_apart(one: Address, other: Address) -> bool:
    """Whether one port can be had by two: not if one of them is for every CID."""
    match one, other:
        case VsockAddress(cid), VsockAddress(other_cid):
            return CID_ANY not in (cid, other_cid) and cid != other_cid
        case _:
            return False


def _address(target: Target) -> Address:
    """Where a target listens, or is to listen; a socket that is handed in is its descriptor."""
    match target:
        case Listener():
            return target.address
        case socket.socket():
            return InheritedSocket(target.fileno())
        case _:
            return target


def _open(target: _Found, mode: int, group: int | None) -> Listener:
    if isinstance(target, Listener):
        return target
    try:
        match target:
            case VsockAddress():
                return Listener(target, _open_vsock(target))
            case UnixAddress() | HybridAddress():
                return _open_unix(target, unixfile.absolute(target.path), mode, group)
            case InheritedSocket():
                return Listener(target, _adopt(target.fd))
            case _:
                return Listener(_address(target), _checked(target))
    except OSError as error:
        number = error.errno or 0
        raise listen_error(_address(target), number, _cid_to_name(number)) from error


def _cid_to_name(number: int) -> int | None:
    """The CID that could have been named instead of one that is not this machine's."""
    if number != errno.EADDRNOTAVAIL:
        return None
    from .vsock import local_cid  # here, for those who named another

    return local_cid()


def _open_vsock(address: VsockAddress) -> socket.socket:
    if address.port == PORT_ANY:
        raise UsageError(
            f"{address} leaves the port to the kernel, and no enclave could know which one it is:"
            " name a port (enclaves use 9000)"
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
    *,
    attempts: int = unixfile.LOCK_ATTEMPTS,
) -> Listener:
    # As it is written, which may be shorter, unless this process is in another directory by now.
    path = address.path if unixfile.absolute(address.path) == file else file
    with ExitStack() as undo:
        sock = undo.enter_context(new_socket(address))
        # On Linux bind(2) gives the file the mode of the unbound socket, less the umask, so that
        # there is no moment at which anybody else may connect.
        os.fchmod(sock.fileno(), 0o600)
        unixfile.bind(sock, path, attempts)
        undo.callback(unixfile.remove_own, path, unixfile.identity(path))
        if mode != 0o600 or group is not None:
            unixfile.share(path, mode, group)
        sock.listen(_BACKLOG)
        reopen = partial(_reopen_unix, address, file, mode, group)
        listener = Listener(address, sock, path=file, reopen=reopen)
        undo.pop_all()
    return listener


def _reopen_unix(
    address: UnixAddress | HybridAddress, file: str, mode: int, group: int | None
) -> Listener:
    """Listen as before, or say at once why that cannot be: others are being served meanwhile."""
    try:
        return _open_unix(address, file, mode, group, attempts=1)
    except OSError as error:  # Python itself refuses a path that is too long, without an errno
        raise listen_error(address, error.errno or errno.ENAMETOOLONG) from error


def _adopt(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    try:
        return _checked(sock)
    except OSError:
        sock.detach()  # whatever it is, it is not what we were promised: leave it as it was
        raise


def _checked(sock: socket.socket) -> socket.socket:
    if sock.type != socket.SOCK_STREAM:
        raise OSError(errno.EPROTOTYPE, "not a stream socket")
    if sock.family not in (AF_VSOCK, socket.AF_UNIX):
        raise OSError(errno.EAFNOSUPPORT, "neither AF_VSOCK nor AF_UNIX")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise OSError(errno.EINVAL, "not listening")
    sock.set_inheritable(False)
    return sock
