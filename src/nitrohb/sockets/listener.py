# SPDX-License-Identifier: Apache-2.0
"""One listening socket. It uses plain ``socket``, because it listens before trio is loaded."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from contextlib import suppress

from ..addresses import VsockAddress
from . import unixfile
from .syscalls import AF_VSOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import Any, Final, Literal, Self

    from ..addresses import Address

CONNECTION_ERRNOS: Final = {
    errno.EPERM,
    errno.ECONNABORTED,
    errno.EPROTO,
    errno.ENETDOWN,
    errno.ENOPROTOOPT,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EHOSTUNREACH,
    errno.EOPNOTSUPP,
    errno.ENETUNREACH,
    errno.ENOSR,
    errno.ESOCKTNOSUPPORT,
    errno.EPROTONOSUPPORT,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.EINTR,
}
"""accept(2) failed because of one connection: try the next one."""

EXHAUSTION_ERRNOS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""accept(2) failed for lack of descriptors or memory: try again later. Any error that is in neither
set means that the listening socket is broken. (_highlevel_socket.py of trio has a survey.)"""

_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h: identifies the network namespace of a socket
_NAMESPACE_MODE: Final = "/proc/sys/net/vsock/ns_mode"  # of this process; since Linux 7.0


def in_local_vsock_namespace() -> bool:
    """Whether new AF_VSOCK sockets of this process are isolated from other network namespaces."""
    with suppress(OSError), open(_NAMESPACE_MODE) as mode:
        return mode.read() == "local\n"
    return False


class Listener:
    """A listening socket, and the socket file that was created for it.

    ``open_listeners()`` returns it. It is a context manager that closes itself.

    Attributes:
        address: The listen address.
        sock: The socket, non-blocking.
        has_cids: Whether its peers have CIDs: true on AF_VSOCK, false on a Unix socket.
        file: The absolute path of the socket file that was created for it; None if there is none.
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
        # Called directly, because the socket object that socket.accept() makes costs the server a
        # quarter of its rate (bench/).
        self._accept: Callable[[], tuple[int, Any]] = sock._accept  # type: ignore[attr-defined]
        self._began = time.time()
        self._opened = time.monotonic()
        self._path = path
        self._identity = None if path is None else unixfile.identity(path)
        self._reopen = reopen
        self.file = path if reopen else None

    @property
    def time(self) -> datetime:
        """When it began to listen, in UTC. For an inherited socket: when nitrohb took it over."""
        from datetime import UTC, datetime  # after the listen (1 ms)

        return datetime.fromtimestamp(self._began, UTC)

    @property
    def age(self) -> float:
        """Seconds since ``time``."""
        return time.monotonic() - self._opened

    def accept(self) -> tuple[int, VsockAddress | None]:
        """Accept one connection, without blocking.

        Returns:
            A non-blocking descriptor, which the caller must close (``socket.socket(fileno=...)``
            makes a socket of it), and the address of the peer; None on a Unix socket.

        Raises:
            OSError: As accept(2). ``BlockingIOError`` if no connection is waiting.
        """
        fd, name = self._accept()
        os.set_blocking(fd, False)
        return fd, VsockAddress(*name) if self.has_cids else None

    def is_isolated(self) -> bool:
        """Whether only clients in the network namespace of this process can connect.

        It is false if that is unknown, for example for a socket from another network namespace.
        """
        if self.has_cids and in_local_vsock_namespace():
            with suppress(OSError), socket.socket(socket.AF_UNIX) as own:
                here = own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
                # Python returns options as 8-byte integers, but only those of AF_VSOCK sockets.
                there = self.sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE)
                return there.to_bytes(8, sys.byteorder) == here
        return False

    def has_backlog(self) -> bool:
        """Whether a connection is waiting to be accepted."""
        return self._has_event(select.POLLIN)

    def is_shut_down(self) -> bool:
        """Whether another process has shut down an inherited socket. No peer can connect then."""
        return self._has_event(select.POLLRDHUP)

    def _has_event(self, what: int) -> bool:
        poll = select.poll()
        poll.register(self.sock, what)
        return bool(poll.poll(0))

    def check_file(self) -> Literal["deleted", "replaced", "unknown"] | None:
        """Return what happened to the socket ``file``; None if it is still there.

        It is "unknown" if the file cannot be examined, for example without the rights to enter its
        directory, and "replaced" if a file with another inode is there. Call this only if there is
        a ``file``.
        """
        assert self.file is not None
        try:
            status = os.lstat(self.file)
        except (FileNotFoundError, NotADirectoryError):
            return "deleted"
        except OSError:  # for example after the process has dropped its privileges
            return "unknown"
        return None if (status.st_dev, status.st_ino) == self._identity else "replaced"

    def reopen(self) -> Listener:
        """Create the socket ``file`` again, and return a new listener. Never blocks.

        The old listener stays open. Call this only if there is a ``file``.

        Raises:
            ListenError: As in ``open_listeners()``.
        """
        assert self._reopen is not None
        listener = self._reopen()
        self._path = None  # the file belongs to the new listener
        return listener

    def close(self) -> None:
        """Stop listening, and remove the socket file unless it was replaced. Can be repeated."""
        if self._path is not None:
            unixfile.remove_own(self._path, self._identity)
        self._path = None
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
