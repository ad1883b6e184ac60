# SPDX-License-Identifier: Apache-2.0
"""One listening socket. Plain ``socket``, without trio: it is open before trio is loaded."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time

from ..addresses import VsockAddress
from . import unixfile
from .wire import AF_VSOCK

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
        self._identity = None if path is None else unixfile.identity(path)
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
            unixfile.remove_own(self._path, self._identity)
        self._path = None
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
