# SPDX-License-Identifier: Apache-2.0
"""One heartbeat on one connection, under trio or asyncio.

``send_heartbeat()`` is the enclave's side. ``answer_heartbeat()`` is the parent's side, on a stream
that the caller owns.
"""

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from .addresses import CID_ANY, Address, InheritedSocket, NamedDescriptor, VsockAddress, as_address
from .arguments import check_seconds
from .errors import HeartbeatTimeoutError, PeerClosedError, UsageError, WrongByteError
from .protocol import (
    HEARTBEAT,
    HEARTBEAT_PORT,
    PARENT_CID,
    EnclaveHandshake,
    Latch,
    ParentHandshake,
    State,
)
from .remedies import connect_error
from .sockets import syscalls

if TYPE_CHECKING:
    import trio

_Receive = Callable[[int], Awaitable[bytes | bytearray]]
_Send = Callable[[bytes], Awaitable[None]]
_Errors = tuple[type[Exception], ...]

DEFAULT_PARENT: Final = VsockAddress(PARENT_CID, HEARTBEAT_PORT)


async def send_heartbeat(
    address: str | Address = DEFAULT_PARENT, *, timeout: float | None = 5.0
) -> float:
    """Send a heartbeat as an enclave does, wait for the echo, and return the seconds.

    It connects, writes 0xB7, reads one byte, and closes. (Source: init.c in
    aws-nitro-enclaves-sdk-bootstrap, which connects to CID 3, port 9000.) It runs under trio and
    asyncio.

    Args:
        address: The address of the parent: ``vsock:CID:PORT``, ``unix:PATH`` or
            ``hybrid:PATH:PORT``. Default: ``vsock:3:9000``.
        timeout: The maximum time in seconds. None waits without a limit, as init does. The kernel
            gives up an AF_VSOCK connect after 2 s anyway.

    Returns:
        The seconds from the start of the connect to the echo.

    Raises:
        AddressError: The address is malformed.
        UsageError: You cannot connect to such an address, or the timeout is wrong.
        ConnectError: The connection failed. The message says why, and what to do.
        PeerClosedError: The connection was closed without an echo.
        WrongByteError: The echo is another byte.
        HeartbeatTimeoutError: The time is up. The message says whether the connection was
            established.

    **Checkpoints.** It always executes a checkpoint, unless it raises ``UsageError``. A
    cancellation closes the connection and leaves nothing behind.
    """
    target = connectable(address)
    if timeout is not None:
        check_seconds("timeout", timeout)
    started, connected, handshake = anyio.current_time(), False, EnclaveHandshake()
    with anyio.move_on_after(timeout):
        with await connect(target) as conn:
            connected = True
            await syscalls.send(conn.fileno(), handshake.opening, anyio.wait_writable)
            handshake.receive(await syscalls.receive(conn.fileno(), anyio.wait_readable))
    if handshake.state is State.WAITING:
        what = "did not answer" if connected else "did not accept the connection"
        raise HeartbeatTimeoutError(
            f"{target} {what} within {timeout:g} s\n"
            "Check that a heartbeat server listens there: it reports each connection."
        )
    _check(
        handshake,
        str(target),
        "Check whether it has already answered, or does not allow this client.",
        "Check which program runs there.",
    )
    return anyio.current_time() - started


async def answer_heartbeat(
    stream: "ByteStream | trio.abc.Stream", *, any_byte: bool = False
) -> bool:
    """Answer the heartbeat on a stream that the caller owns, and leave the stream open.

    It reads exactly one byte and writes at most one, so you can use the stream afterwards.

    Args:
        stream: A byte stream of anyio (under trio or asyncio) or of trio.
        any_byte: Accept and echo any byte, as QEMU's device does.

    Returns:
        Whether the echo was sent. False if the peer sent its heartbeat, and then closed the
        connection.

    Raises:
        PeerClosedError: The stream ended without a byte.
        WrongByteError: The byte is not the heartbeat. It was not echoed.

    **Checkpoints.** It always executes a checkpoint. Only the cancel scope of the caller limits the
    time. After a cancellation, the byte might have been read, but not echoed.
    """
    receive, send, gone = _methods(stream)
    handshake = ParentHandshake(Latch(any_byte=any_byte))
    try:
        handshake.receive(await receive(1))
    except gone:
        handshake.receive(b"")
    _check(handshake, "the peer", "Wait for the next connection.", "Close this connection.")
    try:
        await send(handshake.reply)
    except gone:
        return False
    return True


def connectable(address: str | Address) -> syscalls.SocketAddress:
    """Return the address to connect to, or raise UsageError if that is not possible."""
    target = as_address(address)
    if isinstance(target, InheritedSocket | NamedDescriptor):
        raise UsageError(
            f"cannot connect to {target}: it is a listening socket\nName an address to connect to."
        )
    if isinstance(target, VsockAddress) and target.cid == CID_ANY:
        raise UsageError(
            f"cannot connect to {target}: it has no CID\n"
            f"Add the CID: vsock:CID:PORT. The parent of an enclave is {DEFAULT_PARENT}."
        )
    return target


def _check(
    handshake: EnclaveHandshake | ParentHandshake, peer: str, if_closed: str, if_wrong: str
) -> None:
    """Raise an error, with its remedy, if the peer broke the protocol."""
    if handshake.state is State.CLOSED:
        raise PeerClosedError(f"{peer} closed the connection without sending a byte\n{if_closed}")
    if handshake.state is State.WRONG_BYTE:
        assert handshake.byte is not None
        why = f"{peer} sent 0x{handshake.byte:02X}, not the heartbeat 0x{HEARTBEAT[0]:02X}"
        raise WrongByteError(f"{why}\n{if_wrong}", handshake.byte)


async def connect(address: syscalls.SocketAddress) -> socket.socket:
    """Connect under trio or asyncio, without a time limit except that of the kernel.

    Raises:
        ConnectError: The connection failed. The message says why, and what to do.
    """
    await anyio.lowlevel.checkpoint()
    try:
        sock = syscalls.new_socket(address)
    except OSError as error:
        raise connect_error(address, error.errno or 0) from error
    try:
        if number := await _try_connect(sock, address):
            raise connect_error(address, number)
    except BaseException:
        sock.close()
        raise
    return sock


async def _try_connect(sock: socket.socket, address: syscalls.SocketAddress) -> int:
    """Connect, and return 0 or the errno."""
    sock.setblocking(False)
    number = sock.connect_ex(syscalls.sockaddr(address))
    if number == errno.EINPROGRESS:
        await anyio.wait_writable(sock)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return number


def _methods(stream: "ByteStream | trio.abc.Stream") -> tuple[_Receive, _Send, _Errors]:
    """Return the methods that read and write a stream, and the errors if the peer has gone."""
    if isinstance(stream, ByteStream):
        return stream.receive, stream.send, (anyio.EndOfStream, anyio.BrokenResourceError)
    import trio  # a program with a trio stream has loaded it already

    return stream.receive_some, stream.send_all, (trio.BrokenResourceError,)
