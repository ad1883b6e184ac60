# SPDX-License-Identifier: Apache-2.0
"""Sockets for both sides: create one for an address, read and write without blocking.

Connections are bare descriptors, because a socket object for each would cost the server a quarter
of its rate (bench/). The caller passes the function that waits: ``wait_readable`` of
``trio.lowlevel`` or of ``anyio``. A broken connection is not an error, but the end of the
connection.
"""

from __future__ import annotations

import os
import socket

from ..addresses import HybridAddress, UnixAddress, VsockAddress
from ..remedies import NO_AF_VSOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Final

    Wait = Callable[[int], Awaitable[object]]

AF_VSOCK: Final[int | None] = getattr(socket, "AF_VSOCK", None)
"""``socket.AF_VSOCK``; None if Python was built without it."""

SocketAddress = VsockAddress | UnixAddress | HybridAddress

# Only one byte counts. The rest is read, too, because closing a Unix socket with unread data resets
# its peer.
_READ_SIZE: Final = 4096

_UCRED_SIZE: Final = 12  # struct ucred: pid, uid, gid, 4 bytes each


def new_socket(address: SocketAddress) -> socket.socket:
    """Create a stream socket of the family of an address.

    Raises:
        OSError: As socket(2); with the errno ``NO_AF_VSOCK`` if Python lacks AF_VSOCK.
    """
    if not isinstance(address, VsockAddress):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if AF_VSOCK is None:
        raise OSError(NO_AF_VSOCK, "no AF_VSOCK")
    return socket.socket(AF_VSOCK, socket.SOCK_STREAM)


def sockaddr(address: SocketAddress) -> tuple[int, int] | str:
    """Return an address in the form that bind() and connect() take."""
    return (address.cid, address.port) if isinstance(address, VsockAddress) else address.path


def try_receive(fd: int, size: int = _READ_SIZE) -> bytes | None:
    """Read what has arrived: ``b""`` at the end of the connection, None if nothing has come yet."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def try_send(fd: int, byte: bytes) -> bool | None:
    """Send one byte: False at the end of the connection, None if there is no room yet."""
    try:
        os.write(fd, byte)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def peer_credentials(fd: int) -> bytes:
    """Return the struct ucred of the peer of a Unix socket (SO_PEERCRED of unix(7))."""
    conn = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)  # half the cost of socket()
    try:
        return conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED_SIZE)
    finally:
        conn.detach()


async def receive(fd: int, wait_readable: Wait) -> bytes:
    """Wait for data and return it; ``b""`` at the end of the connection."""
    while (data := try_receive(fd)) is None:
        await wait_readable(fd)
    return data


async def send(fd: int, byte: bytes, wait_writable: Wait) -> bool:
    """Wait for room and send one byte; False at the end of the connection."""
    while (sent := try_send(fd, byte)) is None:
        await wait_writable(fd)
    return sent
