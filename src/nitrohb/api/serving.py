# SPDX-License-Identifier: Apache-2.0
"""The HTTP server: Hypercorn serves each connection, and this module protects the heartbeats.

``hypercorn.trio.serve()`` would let clients harm the heartbeats. It accepts connections until no
descriptor is left for an enclave. It waits without a limit for a client that does not read. An
unexpected error of one connection ends all of them. So this module accepts the connections, limits
their number, and lets Hypercorn serve each one.

**Why there is a queue.** In a pass of its event loop, trio runs every task that is ready. After
that, it looks for new heartbeats. If many connections are ready at once, a pass takes milliseconds,
and heartbeats wait until it ends. So the connections wait in a fair queue, and take turns.

- In a turn, one connection is accepted, receives some data, or sends some.
- After a turn the interface rests for as long as the turn took, and for at least 1 ms. So most
  heartbeats find an idle event loop, however many requests there are.
- New connections, data to receive and data to send have separate queues, which are served in
  rotation. So a flood of requests delays neither new clients nor the responses to claims much.
"""

import logging
import select
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..remedies import descriptor_shortage
from .requests import HEAD_LIMIT, max_connections

IDLE_TIMEOUT: Final = 5.0  # seconds to wait for the complete headers of a request
SEND_TIMEOUT: Final = 10.0  # seconds that a client can leave data unread
WATCH_INTERVAL: Final = 1.0  # seconds between two checks whether a client has disconnected
RECEIVE_SIZE: Final = 2048  # bytes that are received in a turn
PASSES: Final = 20  # passes of the event loop in a turn, enough for a short request
REST: Final = 0.001  # minimum seconds between two turns: the resolution of epoll_wait(2)
_PAUSE: Final = 0.1  # seconds after accept() fails, for example for lack of a descriptor

_log: Final = logging.getLogger(__name__)

_Queue = trio.lowlevel.ParkingLot
_Socket = trio.socket.SocketType


class FairQueue:
    """Gives turns to connections, one after another.

    Attributes:
        accepting: The queue of new connections.
        receiving: The queue of connections that have received data.
        sending: The queue of connections that have data to send.
    """

    def __init__(self) -> None:
        self.accepting, self.receiving, self.sending = _Queue(), _Queue(), _Queue()
        self._queues = (self.sending, self.accepting, self.receiving)
        self._is_needed = trio.Event()
        self._owner: object = None  # whose turn it is
        self._is_closed = False

    async def run(self) -> None:
        """Give turns until cancelled. After that, nobody waits for a turn."""
        try:
            while True:
                await self._is_needed.wait()
                self._is_needed = trio.Event()
                while queues := [queue for queue in self._queues if queue]:
                    for queue in queues:
                        await self._give_turn(queue)
        finally:
            self._is_closed = True
            for queue in self._queues:
                queue.unpark_all()

    async def wait_turn(self, owner: object, queue: _Queue) -> None:
        """Wait for a turn, unless it is the owner's turn already."""
        if self._is_closed or self._owner is owner:
            return
        self._is_needed.set()
        await queue.park()
        self._owner = owner

    async def _give_turn(self, queue: _Queue) -> None:
        began = trio.current_time()
        queue.unpark()
        for _ in range(PASSES):
            await trio.lowlevel.checkpoint()
        self._owner = None
        await trio.sleep(max(REST, trio.current_time() - began))


@asynccontextmanager
async def serving(listener: socket.socket, app: ASGIApp) -> AsyncGenerator[None]:
    """Serve an application on a listening socket while the block runs.

    All connections are closed at once when the block ends. The listening socket stays open.
    """
    server = _Server(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.queue.run)
        nursery.start_soon(server.accept_forever, trio.socket.from_stdlib_socket(listener), nursery)
        try:
            yield
        finally:
            server.close_all()
            nursery.cancel_scope.cancel()


class _Server:
    def __init__(self, app: ASGIApp) -> None:
        self.queue = FairQueue()
        self._app = app
        self._config = _config()
        self._context: Any = WorkerContext(None)
        self._free = trio.Semaphore(max_connections())
        self._streams: set[_Stream] = set()
        self._has_warned = False

    async def accept_forever(self, listener: _Socket, nursery: trio.Nursery) -> None:
        while True:
            await self._free.acquire()
            await nursery.start(self._serve, await self._accept(listener))

    async def _accept(self, listener: _Socket) -> _Socket:
        while True:
            try:
                sock, _ = await listener.accept()
            except OSError as error:
                if not self._has_warned and (shortage := descriptor_shortage(error.errno)):
                    self._has_warned = True
                    _log.warning("nitrohb: --api cannot accept connections: %s", shortage)
                await trio.sleep(_PAUSE)
            else:
                with suppress(OSError):  # a Unix socket does not have this option
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock

    def close_all(self) -> None:
        for stream in self._streams:
            stream.disconnect()

    async def _serve(self, sock: _Socket, task_status: trio.TaskStatus[None]) -> None:
        stream = _Stream(sock, self.queue)
        self._streams.add(stream)
        try:
            await self.queue.wait_turn(stream, self.queue.accepting)
            task_status.started()
            await stream.serve(self._app, self._config, self._context)
        except Exception:  # noqa: BLE001 - a bug in one connection must not end the server
            _log.exception("nitrohb: a connection to --api failed")
        finally:
            stream.disconnect()
            self._streams.remove(stream)
            self._free.release()


class _Connection(TCPServer):
    """A connection of Hypercorn. It does not wait for requests of a client that has left.

    A client that changes to HTTP/2 stays for at most ``IDLE_TIMEOUT``. Hypercorn stops its timer
    for idle connections then, and starts it again only after a request, which gets a 505.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._http2_task: Any = TrioSingleTask()
        self._is_http2 = False

    async def protocol_send(self, event: Event) -> None:
        if not self._is_http2 and isinstance(self.protocol.protocol, H2Protocol):
            self._is_http2 = True
            await self._http2_task.restart(self._task_group, self._idle_timeout)
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()
        await self._http2_task.stop()


class _Stream:
    """A stream for Hypercorn. It closes when the client disconnects, or does not read in time."""

    def __init__(self, sock: _Socket, queue: FairQueue) -> None:
        self.socket = sock
        self._stream = trio.SocketStream(sock)
        self._queue = queue
        self._scope = trio.CancelScope()
        self._is_receiving = False
        self._poll = select.poll()
        self._poll.register(sock, select.POLLRDHUP)

    async def serve(self, app: ASGIApp, config: Config, context: Any) -> None:
        wrapped: Any = ASGIWrapper(self._in_turn(app))  # type: ignore[arg-type]
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                await _Connection(wrapped, config, context, {}, self).run()
                nursery.cancel_scope.cancel()

    def disconnect(self) -> None:
        self.socket.close()  # wakes tasks that Hypercorn shields from cancellation
        self._scope.cancel()

    async def receive_some(self, max_bytes: int) -> bytes:
        self._is_receiving = True
        try:
            data = await self._stream.receive_some(min(max_bytes, RECEIVE_SIZE))
        finally:
            self._is_receiving = False
        if data:
            await self._queue.wait_turn(self, self._queue.receiving)
        return bytes(data)

    async def send_all(self, data: bytes) -> None:
        if not data:
            return
        await self._queue.wait_turn(self, self._queue.sending)
        with trio.move_on_after(SEND_TIMEOUT), suppress(trio.BrokenResourceError):
            await self._stream.send_all(data)
            return
        self.disconnect()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self.disconnect()

    def _in_turn(self, app: ASGIApp) -> ASGIApp:
        """Return an application that takes a turn for each chunk of a body. Chunks can be tiny."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_in_turn() -> Message:
                message = await receive()
                if message["type"] == "http.request":
                    await self._queue.wait_turn(self, self._queue.receiving)
                return message

            await app(scope, receive_in_turn, send)

        return call

    async def _watch(self) -> None:
        """Notice a disconnection even if Hypercorn leaves excess data unread."""
        while True:  # wait_readable() would return at once, because of unread data
            await trio.sleep(WATCH_INTERVAL)
            if not self._is_receiving and self._poll.poll(0):
                self.disconnect()


def _config() -> Config:
    config = Config()
    config.errorlog = config.accesslog = None
    config.include_server_header = False
    config.keep_alive_timeout = IDLE_TIMEOUT
    config.h11_max_incomplete_size = HEAD_LIMIT
    config.h2_max_concurrent_streams = 1  # HTTP/2 is refused
    return config
