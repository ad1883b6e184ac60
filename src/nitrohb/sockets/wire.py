# SPDX-License-Identifier: Apache-2.0
"""Sockets as both sides use them: made for an address, read and written without blocking.

Connections are bare descriptors here: a socket object around each would cost the server a quarter
of its rate (bench/). The caller brings its event loop's way to wait, ``wait_readable`` of
``trio.lowlevel`` or of ``anyio``. A broken connection is no error: it has come to its end.
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
"""``socket.AF_VSOCK``, or None where Python was built without it."""

SocketAddress = VsockAddress | UnixAddress | HybridAddress

# One byte is all that counts. The rest of what a peer has sent at once is taken off the socket
# with it, because a Unix socket that is closed with data unread resets its peer.
_READ_SIZE: Final = 4096


def new_socket(address: SocketAddress) -> socket.socket:
    """Make a stream socket of an address's family.

    Raises:
        OSError: As socket(2) does; with ``NO_AF_VSOCK`` for an errno if Python lacks AF_VSOCK.
    """
    if not isinstance(address, VsockAddress):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if AF_VSOCK is None:
        raise OSError(NO_AF_VSOCK, "no AF_VSOCK")
    return socket.socket(AF_VSOCK, socket.SOCK_STREAM)


def sockaddr(address: SocketAddress) -> tuple[int, int] | str:
    """An address as bind() and connect() want it."""
    return (address.cid, address.port) if isinstance(address, VsockAddress) else address.path


def try_receive(fd: int) -> bytes | None:
    """Read what has come: ``b""`` is the end of the connection, None is nothing yet."""
    try:
        return os.read(fd, _READ_SIZE)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def try_send(fd: int, byte: bytes) -> bool | None:
    """Send one byte: False is the end of the connection, None is no room yet."""
    try:
        os.write(fd, byte)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


async def receive(fd: int, wait_readable: Wait) -> bytes:
    """Read what has come, waiting for it if need be; ``b""`` is the end of the connection."""
    while (data := try_receive(fd)) is None:
        await wait_readable(fd)
    return data


async def send(fd: int, byte: bytes, wait_writable: Wait) -> bool:
    """Send one byte, waiting for room if need be; False if the connection has come to its end."""
    while (sent := try_send(fd, byte)) is None:
        await wait_writable(fd)
    return sent
