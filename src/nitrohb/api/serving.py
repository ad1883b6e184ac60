# SPDX-License-Identifier: Apache-2.0
"""Connections to the interface, each served by Hypercorn, and bounded by us.

Of Hypercorn this uses what serves one connection, and not ``hypercorn.trio.serve()``, because a
client of the interface must never be able to harm a heartbeat, and there

- any number of connections is accepted, until no descriptor is left for an enclave's;
- what is sent to a client that does not read waits for ever, even when all is cancelled;
- an unexpected error of one connection ends the whole nursery.

What comes in and what goes out takes turns (:mod:`nitrohb.api.turns`).
"""

import fcntl
import logging
import resource
import select
import socket
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .turns import Turns

__all__ = ["serving"]

CONNECTIONS: Final = 256
RESERVED: Final = 64  # descriptors that are never a client's; of the others he has half at most
LOOK: Final = 1.0  # seconds
SEND_TIMEOUT: Final = 10.0  # seconds that a client may leave a piece unread
KEEP_ALIVE: Final = 5.0  # seconds without a request, or until a request's headers are complete
PIECE: Final = 2048  # bytes taken in at a time
HEADERS: Final = 4096  # bytes; where they are short ones, h11 takes 1 ms for them in one step
_NOTHING: Final = bytes(4)  # 0 as a C int
_PAUSE: Final = 0.1  # seconds, when nobody can be accepted: there may be no descriptors left

_log: Final = logging.getLogger(__name__)


@asynccontextmanager
async def serving(listener: socket.socket, app: ASGIApp) -> AsyncGenerator[None]:
    """Serve an application on a listening socket while the block runs.

    When it is left, every connection is closed at once. The listening socket stays open.
    """
    server = _Server(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.turns.run)
        nursery.start_soon(server.accept_forever, trio.socket.from_stdlib_socket(listener), nursery)
        try:
            yield
        finally:
            server.close_all()
            nursery.cancel_scope.cancel()


class _Server:
    def __init__(self, app: ASGIApp) -> None:
        self.turns = Turns()
        self._app = app
        self._config = _config()
        self._context: Any = WorkerContext(None)
        self._room = trio.Semaphore(_room())
        self._streams: set[_Stream] = set()

    async def accept_forever(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            await self._room.acquire()
            await nursery.start(self._serve, await self._accept(listener))

    def close_all(self) -> None:
        for stream in self._streams:
            stream.close()

    async def _accept(self, listener: trio.socket.SocketType) -> "_Stream":
        """Accept somebody. Of those who have gone before that, many have one turn together."""
        while not (stream := _Stream(await _accept(listener), self.turns)).is_there():
            stream.close()
            await self.turns.take(self, self.turns.accepted)
        return stream

    async def _serve(self, stream: "_Stream", task_status: trio.TaskStatus[None]) -> None:
        self._streams.add(stream)
        try:
            await self.turns.take(stream, self.turns.accepted)
            task_status.started()
            await self._connect(stream)
        except Exception:  # noqa: BLE001 - a bug of one connection must not end the heartbeats
            _log.exception("a connection failed")
        finally:
            stream.close()
            self._streams.remove(stream)
            self._room.release()

    async def _connect(self, stream: "_Stream") -> None:
        app: Any = ASGIWrapper(_in_turn(self._app, stream))  # type: ignore[arg-type]
        connection: Any = _Connection(app, self._config, self._context, {}, stream)  # type: ignore[arg-type]
        await connection.run()


class _Connection(TCPServer):
    """Hypercorn's, but who has gone away is not waited for until he would have been idle for long.

    That takes up room for one connection.
    """

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()


class _Stream:
    """A connection as Hypercorn has it, which takes turns with others, and limits what goes out.

    Attributes:
        socket: Its socket.
    """

    def __init__(self, sock: trio.socket.SocketType, turns: Turns) -> None:
        self.socket = sock
        self._stream = trio.SocketStream(sock)
        self._turns = turns
        self._is_reading = False

    def is_there(self) -> bool:
        """Whether the client has not gone away yet, or has said something before."""
        # In this order: what comes in between is not taken for the end.
        return not self.socket.is_readable() or self._has_unread()

    def _has_unread(self) -> bool:
        return fcntl.ioctl(self.socket.fileno(), termios.FIONREAD, _NOTHING) != _NOTHING

    async def unless_gone(self, receive: Receive) -> Message:
        """Wait for a message of the client, or for its end.

        Hypercorn reads no further while an answer is due to a client that has sent more than its
        request. So it would not learn that such a client is gone.
        """
        message: Message = {"type": "http.disconnect"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            message = await receive()
            nursery.cancel_scope.cancel()
        return message

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        # The kernel would wake us at once, for what is there unread.
        while not self._has_hung_up():  # noqa: ASYNC110
            await trio.sleep(LOOK)
        scope.cancel()

    def _has_hung_up(self) -> bool:
        """Whether the client has gone away, and nobody reads here who would notice."""
        if self._is_reading:
            return False
        poll = select.poll()
        poll.register(self.socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    async def may_receive(self) -> None:
        """Wait for our turn to take something in."""
        await self._turns.take(self, self._turns.receiving)

    async def receive_some(self, most: int) -> bytes:
        """Receive a piece, in turn."""
        self._is_reading = True
        try:
            data = await self._stream.receive_some(min(most, PIECE))
        finally:
            self._is_reading = False
        if data:
            await self.may_receive()
        else:  # who goes away does not queue: what he waits for must not be given to him
            await self._turns.leave()
        return bytes(data)

    async def send_all(self, data: bytes) -> None:
        """Send everything, in turn, or close it if the client does not read."""
        if not data:
            return
        await self._turns.take(self, self._turns.sending)
        with trio.move_on_after(SEND_TIMEOUT) as deadline:
            await self._stream.send_all(data)
        if deadline.cancelled_caught:
            self.close()
            raise trio.BrokenResourceError("the client does not read")

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        """Close it at once. Who waits for it gets a ClosedResourceError."""
        self.socket.close()


def _in_turn(app: ASGIApp, stream: _Stream) -> ASGIApp:
    """An application that gets the body of a request piece by piece, in turn."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_in_turn() -> Message:
            message = await stream.unless_gone(receive)
            if message["type"] == "http.request":
                await stream.may_receive()
            return message

        await app(scope, receive_in_turn, send)

    return call


def _room() -> int:
    """How many connections there may be: never so many that an enclave's finds no descriptor."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return CONNECTIONS
    return max(1, min(CONNECTIONS, (limit - RESERVED) // 2))


def _config() -> Config:
    config = Config()
    config.errorlog = config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE
    config.h11_max_incomplete_size = HEADERS
    config.h2_max_concurrent_streams = 1  # who speaks HTTP/2 is told not to
    return config


async def _accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    while True:
        try:
            sock, _ = await listener.accept()
        except OSError:
            await trio.sleep(_PAUSE)
        else:
            with suppress(OSError):  # of TCP alone
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
