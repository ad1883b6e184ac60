# SPDX-License-Identifier: Apache-2.0
"""One listening socket. Plain ``socket``, without trio: it is open before trio is loaded."""

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
"""accept(2) failed because of the connection that it would have returned: try the next one."""

EXHAUSTION_ERRNOS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""accept(2) failed for want of descriptors or memory. This passes. Any error that is in neither set
means that the listening socket itself is broken. (trio.SocketListener has a survey.)"""

_SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h: which network namespace a socket is of
_NAMESPACE_MODE: Final = "/proc/sys/net/vsock/ns_mode"  # of this process's; from Linux 7.0 on


def in_local_vsock_namespace() -> bool:
    """Whether the AF_VSOCK sockets that this process makes are cut off from other namespaces."""
    with suppress(OSError), open(_NAMESPACE_MODE) as mode:
        return mode.read() == "local\n"
    return False


class Listener:
    """One listening socket, and the socket file that was created for it.

    Attributes:
        address: The listen address.
        sock: The socket, non-blocking.
        has_cids: Whether its peers have CIDs: on AF_VSOCK, but not on a Unix socket.
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
        # socket.accept() calls this. The socket object that it then makes costs the server a
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
        """When it began to listen, in UTC; for an inherited socket, when nitrohb took it."""
        from datetime import UTC, datetime  # after the listen (1 ms)

        return datetime.fromtimestamp(self._began, UTC)

    @property
    def age(self) -> float:
        """Seconds since ``time``."""
        return time.monotonic() - self._opened

    def accept(self) -> tuple[int, VsockAddress | None]:
        """Accept one connection without blocking.

        Returns:
            A non-blocking descriptor, which the caller must close (``socket.socket(fileno=...)``
            makes a socket of it), and the address of the peer if it has one.

        Raises:
            OSError: As accept(2); BlockingIOError if there is no connection.
        """
        fd, name = self._accept()
        os.set_blocking(fd, False)
        return fd, VsockAddress(*name) if self.has_cids else None

    def is_isolated(self) -> bool:
        """Whether it is known that only clients in its own network namespace can connect.

        It is not known of a socket that was passed in from another network namespace.
        """
        if self.has_cids and in_local_vsock_namespace():
            with suppress(OSError), socket.socket(socket.AF_UNIX) as own:
                here = own.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
                # Python takes the options of AF_VSOCK sockets alone for integers of 8 bytes.
                there = self.sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE)
                return there.to_bytes(8, sys.byteorder) == here
        return False

    def has_backlog(self) -> bool:
        """Whether a connection is in the backlog."""
        return self._has_event(select.POLLIN)

    def is_shut_down(self) -> bool:
        """Whether another process has shut an inherited socket down: no peer can connect."""
        return self._has_event(select.POLLRDHUP)

    def _has_event(self, what: int) -> bool:
        poll = select.poll()
        poll.register(self.sock, what)
        return bool(poll.poll(0))

    def check_file(self) -> Literal["deleted", "replaced", "unknown"] | None:
        """What happened to the socket ``file``; None if it is there.

        While the socket is bound to it, no other file gets its inode number. A network file system
        may differ.
        """
        assert self.file is not None
        try:
            status = os.lstat(self.file)
        except (FileNotFoundError, NotADirectoryError):
            return "deleted"
        except OSError:  # the process has dropped its privileges, and may not look there
            return "unknown"
        return None if (status.st_dev, status.st_ino) == self._identity else "replaced"

    def reopen(self) -> Listener:
        """Create the socket ``file`` again, with a listener beside this one. Never blocks.

        Raises:
            ListenError: As in ``open_listeners()``.
        """
        assert self._reopen is not None
        listener = self._reopen()
        self._path = None  # the file there now belongs to the new listener
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
