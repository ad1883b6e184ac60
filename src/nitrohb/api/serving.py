# SPDX-License-Identifier: Apache-2.0
"""Connections to the interface, each served by Hypercorn, and bounded by us.

Of Hypercorn this uses what serves one connection, and not ``hypercorn.trio.serve()``, because a
client of the interface must never be able to harm a heartbeat, and there

- any number of connections is accepted, until no descriptor is left for an enclave's;
- what is sent to a client that does not read waits for ever, even when all is cancelled;
- an unexpected error of one connection ends the whole nursery.

Furthermore all connections are runnable at once when many send at once, and trio runs them all
before it looks for new heartbeats: so here they pass a turnstile, one in each pass of the loop.
"""

import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from starlette.types import ASGIApp

__all__ = ["serving"]

CONNECTIONS: Final = 256
SEND_TIMEOUT: Final = 10.0  # seconds that a client may leave a piece unread
KEEP_ALIVE: Final = 5.0  # seconds without a request, or until a request's headers are complete
_PAUSE: Final = 0.1  # seconds, when nobody can be accepted: there may be no descriptors left

_log: Final = logging.getLogger(__name__)


@asynccontextmanager
async def serving(listener: socket.socket, app: ASGIApp) -> AsyncGenerator[None]:
    """Serve an application on a listening socket while the block runs.

    When it is left, every connection is closed at once. The listening socket stays open.
    """
    server = _Server(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_forever, trio.socket.from_stdlib_socket(listener), nursery)
        try:
            yield
        finally:
            server.close_all()
            nursery.cancel_scope.cancel()


class _Server:
    def __init__(self, app: ASGIApp) -> None:
        self._app: Any = ASGIWrapper(app)  # type: ignore[arg-type]
        self._config = _config()
        self._context: Any = WorkerContext(None)
        self._room = trio.Semaphore(CONNECTIONS)
        self._turnstile = trio.Lock()
        self._streams: set[_Stream] = set()

    async def accept_forever(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            await self._room.acquire()
            sock = await _accept(listener)
            nursery.start_soon(self._serve, _Stream(trio.SocketStream(sock), self._turnstile))

    def close_all(self) -> None:
        for stream in self._streams:
            stream.close()

    async def _serve(self, stream: "_Stream") -> None:
        self._streams.add(stream)
        connection: Any = TCPServer(self._app, self._config, self._context, {}, stream)  # type: ignore[arg-type]
        try:
            await connection.run()
        except Exception:  # noqa: BLE001 - a bug of one connection must not end the heartbeats
            _log.exception("a connection failed")
        finally:
            stream.close()
            self._streams.remove(stream)
            self._room.release()


class _Stream:
    """A connection as Hypercorn has it, with a turnstile for what comes and a limit for what goes.

    Attributes:
        socket: Its socket.
    """

    def __init__(self, stream: trio.SocketStream, turnstile: trio.Lock) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._turnstile = turnstile

    async def receive_some(self, most: int) -> bytes:
        """Receive something, in turn."""
        data = await self._stream.receive_some(most)
        if data:  # who goes away does not queue: what he waits for must not be given to him
            async with self._turnstile:
                await trio.lowlevel.checkpoint()
        return bytes(data)

    async def send_all(self, data: bytes) -> None:
        """Send everything, or close it if the client does not read."""
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


def _config() -> Config:
    config = Config()
    config.errorlog = config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE
    config.h11_max_incomplete_size = 16 * 1024
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
