# SPDX-License-Identifier: Apache-2.0
"""Listening sockets: opened all or none, and closed without a trace. Plain ``socket``, no trio."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from contextlib import ExitStack, suppress
from functools import partial

from . import unixfiles
from .addresses import (
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
from .errors import AddressError, UsageError
from .remedies import listen_error
from .wire import AF_VSOCK, new_socket, sockaddr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from typing import Any, Final, Literal, Self

__all__ = ["Listener", "Listen", "open_listeners"]

_BACKLOG: Final = 4096  # the kernel's own limit, net.core.somaxconn, is this by default

_UCRED_SIZE: Final = 12  # struct ucred: pid, uid, gid, 4 bytes each


class Listener:
    """One listening socket that is ours to close.

    Attributes:
        address: Where it listens.
        sock: The socket itself, not blocking.
        has_cids: Whether its peers have CIDs: they do on AF_VSOCK, and not on a Unix socket.
        file: The socket file that we have made for it, an absolute path; None if there is none.
    """

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        *,
        path: str | None = None,
        reopen: Callable[[], Listener] | None = None,
    ) -> None:
        sock.setblocking(False)
        self.address = address
        self.sock = sock
        self.has_cids = sock.family == AF_VSOCK
        # What socket.accept() itself calls. The object that it makes of the descriptor costs the
        # server a quarter of its rate (bench/).
        self._accept: Callable[[], tuple[int, Any]] = sock._accept  # type: ignore[attr-defined]
        self._began = time.time()
        self._opened = time.monotonic()
        self._path = path
        self._identity = None if path is None else unixfiles.identity(path)
        self._reopen = reopen
        self.file = path if reopen else None

    @property
    def time(self) -> datetime:
        """When it began to listen, as far as we know, in UTC."""
        from datetime import UTC, datetime  # here, because listening need not wait for it (1 ms)

        return datetime.fromtimestamp(self._began, UTC)

    @property
    def age(self) -> float:
        """Seconds since it began to listen."""
        return time.monotonic() - self._opened

    def accept(self) -> tuple[int, VsockAddress | None]:
        """Accept one connection, without blocking.

        Returns:
            A descriptor that does not block, the caller's to close (``socket.socket(fileno=...)``
            makes a socket of it), and the peer's address if it has one.

        Raises:
            OSError: As accept(2) does; BlockingIOError if nobody waits.
        """
        fd, name = self._accept()
        os.set_blocking(fd, False)
        return fd, VsockAddress(*name) if self.has_cids else None

    def identify(self, fd: int) -> int:
        """The process that made a connection to a Unix socket, by SO_PEERCRED of unix(7)."""
        conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
        try:
            credentials = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED_SIZE)
        finally:
            conn.detach()
        return int.from_bytes(credentials[:4], sys.byteorder)

    def is_awaited(self) -> bool:
        """Whether somebody waits to be accepted."""
        return self._polls(select.POLLIN)

    def is_shut_down(self) -> bool:
        """Whether another holder of an inherited socket has shut it down: nobody can connect."""
        return self._polls(select.POLLRDHUP)

    def _polls(self, what: int) -> bool:
        poll = select.poll()
        poll.register(self.sock, what)
        return bool(poll.poll(0))

    def loss(self) -> Literal["deleted", "replaced"] | None:
        """What has become of our socket :attr:`file`; None: it is there, for all we know.

        No other file gets its inode number as long as our socket is bound to it, unless the file
        system is not this kernel's own.
        """
        assert self.file is not None
        try:
            status = os.lstat(self.file)
        except (FileNotFoundError, NotADirectoryError):
            return "deleted"
        except OSError:  # whoever has dropped his privileges may not look there any more
            return None
        return None if (status.st_dev, status.st_ino) == self._identity else "replaced"

    def reopen(self) -> Listener:
        """Listen where our :attr:`file` was, beside this listener. It waits for nobody.

        Raises:
            ListenError: As in :func:`open_listeners`.
        """
        assert self._reopen is not None
        listener = self._reopen()
        self._path = None  # what is there now is not this listener's to remove
        return listener

    def close(self) -> None:
        """Stop listening, and remove the socket file if it is still ours. May be repeated."""
        if self._path is not None:
            unixfiles.remove_own(self._path, self._identity)
        self._path = None
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
                return _open_unix(target, unixfiles.absolute(target.path), mode, group)
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
    from .local_cid import local_cid  # here, for those who named another

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
    attempts: int = unixfiles.LOCK_ATTEMPTS,
) -> Listener:
    # As it is written, which may be shorter, unless this process is in another directory by now.
    path = address.path if unixfiles.absolute(address.path) == file else file
    with ExitStack() as undo:
        sock = undo.enter_context(new_socket(address))
        # On Linux bind(2) gives the file the mode of the unbound socket, less the umask, so that
        # there is no moment at which anybody else may connect.
        os.fchmod(sock.fileno(), 0o600)
        unixfiles.bind(sock, path, attempts)
        undo.callback(unixfiles.remove_own, path, unixfiles.identity(path))
        if mode != 0o600 or group is not None:
            unixfiles.share(path, mode, group)
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
