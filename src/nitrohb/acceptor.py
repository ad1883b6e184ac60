# SPDX-License-Identifier: Apache-2.0
"""One listen address: its listener task, and the connections that it accepts.

The byte of an enclave has usually arrived when its connection is accepted, or arrives a moment
later. So the listener task reads and echoes it at once. Only a connection that stays silent gets a
handler task, with a deadline.

An ``Acceptor`` owns its connections: only it closes them and reports how they ended.
"""

import errno
import math
import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from . import events
from .addresses import VsockAddress
from .claims import ClaimQueue
from .connection import Allowed, Connection
from .errors import ListenError
from .pending import Pending
from .protocol import Latch, ParentHandshake, State
from .remedies import listen_error
from .reserve import Reserve
from .sockets.listener import CONNECTION_ERRNOS, EXHAUSTION_ERRNOS, Listener

_BATCH: Final = 64  # connections to accept before polled ones are served
_EXHAUSTION_PAUSE: Final = 0.1  # seconds
_FILE_CHECK: Final = 0.5  # seconds between two checks of the socket file

# Busy polling, in nanoseconds. Without it, a heartbeat takes about twice as long (p50 in bench/).
# With one CPU, no peer could run meanwhile.
_ONE_CPU: Final = os.cpu_count() == 1
_POLL_FOR_NEXT: Final = 0 if _ONE_CPU else 30_000
_POLL_FOR_BYTES: Final = 0 if _ONE_CPU else 300_000
_POLL_SLICE: Final = 300_000  # between two checkpoints; a shorter one delays a late byte by 1 us
_POLLED_MAX: Final = 4  # pending connections; polling more takes longer than it saves


@dataclass(frozen=True, slots=True)
class ServerContext:
    """The validated arguments of ``serve_heartbeat()``, and what its addresses share.

    Attributes:
        allowed: The peers to answer; None for all.
        socket_mode, socket_group: The permissions and the group of new socket files.
        wants_events: Whether anything uses the events. If not, connections create none.
        claim_queue: Takes the heartbeats, to be claimed; None if nothing can claim one.
        pending: The pending connections, each with its owner.
        reserve: A descriptor for a connection when no other is free.
    """

    keep: bool
    allowed: Allowed | None
    any_byte: bool
    handshake_timeout: float
    max_pending: int
    socket_mode: int
    socket_group: int | None
    emit: Callable[[events.Event], object]
    wants_events: bool
    claim_queue: ClaimQueue | None
    pending: Pending[tuple["Acceptor", Connection]]
    reserve: Reserve


class Acceptor:
    """One listen address: its listener, and the connections that it has accepted.

    Attributes:
        address: The listen address.
        listener: The listener; a new one after the socket file was created again.
        is_done: Whether the address is closed, or about to close: it is one-shot and has answered,
            or it was removed.
        heartbeat: The last heartbeat; None if there was none, or if nothing uses it.
    """

    def __init__(self, listener: Listener, age: float, context: ServerContext) -> None:
        self.address = listener.address
        self.listener = listener
        self.is_done = False
        self.heartbeat: events.Heartbeat | None = None
        self._end_reason = events.RejectReason.UNLISTENED
        self._context = context
        self._latch = Latch(keep=context.keep, any_byte=context.any_byte)
        self._listening_since = trio.current_time() - age
        self._poll = select.poll()
        self._poll.register(listener.sock, select.POLLIN)
        self._polled: dict[int, Connection] = {}  # by descriptor; at most _POLLED_MAX
        self._scope = trio.CancelScope()  # of the listener task, even before it starts
        self._nursery: trio.Nursery  # while serve() runs

    async def serve(self) -> None:
        """Accept and answer connections until the address closes. This is the listener task."""
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                if self.listener.file is not None:
                    self._nursery.start_soon(self._watch_socket_file)
                await self._accept_forever()

    def close(self) -> None:
        """Stop listening. You can call it again."""
        self.listener.close()

    def rearm(self) -> None:
        """Forget the answer, and close the pending connections of this address."""
        self._latch.rearm()
        self._reject_pending(events.RejectReason.REARMED)

    def end(self, event: type[events.Done] | type[events.Unlistened]) -> None:
        """Close the address and its pending connections, and report it. ``Done`` comes once."""
        if self.listener.sock.fileno() >= 0:
            self.is_done = self._latch.answered = True
            self._scope.cancel()
            self._poll.unregister(self.listener.sock)
            self.close()
            if self._context.claim_queue is not None:
                self._context.claim_queue.close(self.address)
            if event is events.Done:
                self._end_reason = events.RejectReason.ALREADY_ANSWERED
            self._reject_pending(self._end_reason)
        elif event is events.Done:
            return
        self._context.emit(event(address=self.address, time=events.utc_now()))

    def _reject_pending(self, reason: events.RejectReason) -> None:
        for owner, connection in [*self._context.pending]:
            if owner is self and connection.fd >= 0:
                self._reject(connection, reason)

    async def _accept_forever(self) -> None:
        while not self.is_done:
            try:
                await trio.lowlevel.wait_readable(self.listener.sock)
            except trio.ClosedResourceError:  # woken: the socket file was created again
                continue
            try:
                await self._busy_poll()
            finally:
                self._start_handlers(math.inf)

    def _accept_batch(self, listener: Listener) -> bool:
        """Accept and answer a batch. Return whether descriptors or memory are exhausted."""
        if self.is_done:
            return False
        for number in range(_BATCH):
            try:
                fd, peer = listener.accept()
            except BlockingIOError:
                # The socket was readable: the peer has gone, or the socket is shut down.
                if number == 0 and listener.is_shut_down():
                    raise listen_error(self.address, errno.ESHUTDOWN) from None
                return False
            except OSError as error:
                if error.errno in EXHAUSTION_ERRNOS:
                    # accept(2) takes a descriptor before it looks for a connection.
                    if not listener.has_backlog():
                        return False
                    self._context.reserve.warn(error.errno, self.address)
                    if not (self._context.reserve.spend() or self._evict()):
                        return True
                elif error.errno not in CONNECTION_ERRNOS:
                    raise listen_error(self.address, error.errno or 0) from error
            else:
                self._handle_new(Connection(fd, peer, ParentHandshake(self._latch)))
            if self._latch.answered:
                return False
        return False

    def _handle_new(self, connection: Connection) -> None:
        """Answer a new connection if its byte is there. Otherwise it becomes pending."""
        context = self._context
        try:
            if context.wants_events:
                connection.accepted_at = trio.current_time()
                connection.identify()
                self._emit(events.Connected, connection)
            if self.is_done:  # on_event has just removed the address
                self._reject(connection, self._end_reason)
            elif context.allowed and (why := context.allowed.refusal(connection.identify())):
                self._reject(connection, why)
            elif connection.advance():
                self._conclude(connection)
            else:
                self._add_pending(connection)
        except BaseException:
            self._close(connection)
            raise

    # Pending connections: polled for a moment, then left to a handler task each.

    def _add_pending(self, connection: Connection) -> None:
        peer = connection.identify()
        # A negative key is a PID. Processes that this PID namespace hides count per address.
        key = peer.cid if isinstance(peer, VsockAddress) else -(peer.pid or 0) or self
        if len(self._context.pending) >= self._context.max_pending:
            self._evict()
            if self.is_done:  # the eviction found a heartbeat, or on_event removed the address
                self._reject(connection, self._end_reason)
                return
        self._context.pending.add(key, (self, connection))
        connection.pending_key = key
        connection.deadline = trio.current_time() + self._context.handshake_timeout
        connection.polled_since = time.monotonic_ns()
        self._polled[connection.fd] = connection
        self._poll.register(connection.fd, select.POLLIN)
        if len(self._context.pending) > _POLLED_MAX:
            self._start_handler(connection)

    def _start_handler(self, connection: Connection) -> None:
        del self._polled[connection.fd]
        self._poll.unregister(connection.fd)
        self._nursery.start_soon(self._handle, connection, name=f"handler {self.address}")

    async def _handle(self, connection: Connection) -> None:
        """Answer one pending connection. This is its handler task."""
        try:
            with trio.move_on_at(connection.deadline) as deadline:
                # Perhaps it was evicted before this task ran for the first time.
                while connection.fd >= 0 and not connection.advance():
                    await connection.wait()
            if connection.fd >= 0:
                if deadline.cancelled_caught:
                    connection.advance()  # perhaps the byte came just before the deadline
                self._conclude(connection)
        except trio.ClosedResourceError:
            assert connection.fd < 0  # evicted, or rejected with all that are pending
        finally:
            self._close(connection)

    def _evict(self) -> bool:
        """Close one pending connection of any address. Return whether there was one."""
        if (victim := self._context.pending.victim()) is None:
            return False
        owner, connection = victim
        connection.advance()  # perhaps its byte has just come
        owner._conclude(connection, is_evicted=True)
        return True

    # How a connection ends.

    def _conclude(self, connection: Connection, *, is_evicted: bool = False) -> None:
        """Close a connection and report how it ended. A silent one was evicted or timed out."""
        self._close(connection)
        match connection.handshake.state:
            case State.HEARTBEAT:
                self._conclude_heartbeat(connection)
            case State.WRONG_BYTE:
                self._reject(connection, events.RejectReason.WRONG_BYTE)
            case State.ALREADY_ANSWERED:
                self._reject(connection, events.RejectReason.ALREADY_ANSWERED)
            case State.CLOSED:
                self._emit(events.Disconnected, connection)
            case State.WAITING if is_evicted:
                self._emit(events.Evicted, connection)
            case State.WAITING:
                self._reject(connection, events.RejectReason.TIMEOUT)

    def _conclude_heartbeat(self, connection: Connection) -> None:
        context = self._context
        self.is_done = not context.keep
        if context.wants_events:
            now = trio.current_time()
            assert connection.handshake.byte is not None
            self.heartbeat = events.Heartbeat(
                address=self.address,
                time=datetime.fromtimestamp(connection.received_at, UTC),
                peer=connection.identify(),
                byte=connection.handshake.byte,
                listening_seconds=now - self._listening_since,
                echo_seconds=now - connection.accepted_at,
                echoed=connection.echoed,
            )
            if context.claim_queue is not None:
                context.claim_queue.deliver(self.heartbeat)
            context.emit(self.heartbeat)  # it can remove the address
        if not context.keep:
            self.end(events.Done)

    def _reject(self, connection: Connection, reason: events.RejectReason) -> None:
        self._close(connection)
        byte = connection.handshake.byte
        self._emit(events.Rejected, connection, reason=reason, byte=byte)

    def _emit(
        self, kind: Callable[..., events.ConnectionEvent], connection: Connection, **more: object
    ) -> None:
        if self._context.wants_events:
            now, peer = events.utc_now(), connection.peer
            event = kind(address=self.address, time=now, peer=peer, **more)
            if self._context.claim_queue is not None and kind is not events.Connected:
                self._context.claim_queue.note(event)
            self._context.emit(event)

    def _close(self, connection: Connection) -> None:
        """Close a connection, and remove it from all collections. You can call it again."""
        fd, connection.fd = connection.fd, -1
        if fd < 0:
            return
        if connection.pending_key is not None:
            self._context.pending.remove(connection.pending_key, (self, connection))
            if self._polled.pop(fd, None) is not None:
                self._poll.unregister(fd)
            trio.lowlevel.notify_closing(fd)  # wakes its handler task
        os.close(fd)
        if self._context.reserve.fd < 0:
            self._context.reserve.refill()

    # Busy polling. Sleeping takes longer than the rest of a heartbeat. So after a connection the
    # listener task polls for a moment: for the next one, and for bytes of a few pending ones.

    async def _busy_poll(self) -> None:
        now = time.monotonic_ns()
        until, next_checkpoint = now, now + _POLL_SLICE
        while now <= until:
            if ready := self._poll.poll(0):
                if self._serve_ready(ready):
                    await trio.sleep(_EXHAUSTION_PAUSE)
                    return
                until = time.monotonic_ns() + (_POLL_FOR_BYTES if self._polled else _POLL_FOR_NEXT)
            now = time.monotonic_ns()
            if now >= next_checkpoint:  # let other tasks run, and a cancellation take effect
                self._start_handlers(now - _POLL_FOR_BYTES)
                await trio.lowlevel.checkpoint()
                now = time.monotonic_ns()
                next_checkpoint = now + _POLL_SLICE

    def _serve_ready(self, ready: list[tuple[int, int]]) -> bool:
        """Serve what is readable. Return whether descriptors or memory are exhausted."""
        for fd, _ in ready:
            if connection := self._polled.get(fd):
                if connection.advance():
                    self._conclude(connection)
                else:  # there is no room for its echo
                    self._start_handler(connection)
            # It is the listener, or a connection that was just evicted.
            elif self._accept_batch(self.listener):
                return True
        return False

    def _start_handlers(self, polled_before: float) -> None:
        """Start the handlers of the pending connections that have been polled long enough."""
        for connection in list(self._polled.values()):
            if connection.polled_since <= polled_before:
                self._start_handler(connection)

    # The socket file. If another process deletes or replaces it, no peer can find the socket.

    async def _watch_socket_file(self) -> None:
        emit, address = self._context.emit, self.address
        is_lost = False
        while not self.is_done:
            loss = self.listener.check_file()
            if loss == "unknown":  # for example, its directory cannot be searched any more
                loss = "deleted" if is_lost else None
            problem = None if loss is None else self._listen_again()
            now, replaced = events.utc_now(), loss == "replaced"
            if loss is not None and not is_lost:
                is_lost = True
                emit(events.Lost(address=address, time=now, replaced=replaced, problem=problem))
            if is_lost and problem is None:
                is_lost = False
                emit(events.Listening(address=address, time=now))
            await trio.sleep(_FILE_CHECK)

    def _listen_again(self) -> str | None:
        """Create the socket file and the listener again. Return what prevents it, or None."""
        try:
            listener = self.listener.reopen()
        except ListenError as error:
            return str(error)
        before, self.listener = self.listener, listener
        self._poll.unregister(before.sock)
        self._poll.register(listener.sock, select.POLLIN)
        trio.lowlevel.notify_closing(before.sock)  # wakes the listener task
        self._nursery.start_soon(self._accept_backlog, before, name=f"backlog of {self.address}")
        return None

    async def _accept_backlog(self, listener: Listener) -> None:
        """Accept the connections that still wait at an old listener, and close it."""
        with listener:
            while listener.has_backlog():
                try:
                    is_exhausted = self._accept_batch(listener)
                finally:
                    self._start_handlers(math.inf)  # the listener task might sleep
                await trio.sleep(_EXHAUSTION_PAUSE if is_exhausted else 0)
