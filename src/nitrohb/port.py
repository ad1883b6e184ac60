# SPDX-License-Identifier: Apache-2.0
"""One listen address: its listener task, and what its connections have in common."""

import errno
import math
import os
import select
import time
from typing import Final

import trio

from .connection import Connection, Waiting
from .events import Done, Heartbeat, utc_now
from .handout import Handout
from .listeners import Listener
from .protocol import Latch
from .remedies import listen_error
from .rules import Rules

__all__ = ["Port"]

# What accept(2) can fail with. The first set concerns the one connection that it would have
# returned: go on with the next. The second is exhaustion: it passes, so wait a little, as
# trio.serve_listeners does, unless somebody who waits can make room. Anything else is about the
# listening socket itself, and fatal.
_CONNECTION_ERRNOS: Final = {
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
_EXHAUSTION_ERRNOS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTION_PAUSE: Final = 0.1  # seconds

_BATCH: Final = 64  # connections accepted in one go

# How long a listener task looks on before it goes to sleep, in nanoseconds. A guest's init sends
# its byte some 200 us after it connects. With one CPU nobody can come while we look, and it is no
# use to look for the bytes of more than a few who wait in silence. Measured beside a C epoll server
# (bench/), without and with this: p50 1.9 and 0.95 times as long, from a late byte 1.9 and 1.25.
_ALONE: Final = os.cpu_count() == 1
_PEER_IS_NEAR: Final = 0 if _ALONE else 30_000
_BYTE_IS_NEAR: Final = 0 if _ALONE else 300_000
_CHECKPOINT: Final = 300_000  # a shorter one costs the late byte 1 us
_FEW: Final = 4


class Port:
    """One listen address: its listener task, and what its connections have in common."""

    def __init__(
        self, listener: Listener, age: float, rules: Rules, waiting: Waiting, handout: Handout
    ) -> None:
        self.address = listener.address
        self.listener = listener
        self.rules = rules
        self.waiting = waiting
        self.is_closed = False
        self.latch = Latch(once=rules.once, any_byte=rules.any_byte)
        self.since = trio.current_time() - age
        self.heartbeat: Heartbeat | None = None
        self._handout = handout
        self._lookout = select.poll()
        self._lookout.register(listener.sock, select.POLLIN)
        self._newcomers: dict[int, Connection] = {}  # by descriptor; few, see _FEW
        self._handlers: trio.Nursery

    async def serve(self) -> None:
        """Be the listener task: accept until this address is answered, or for ever."""
        async with trio.open_nursery() as self._handlers:
            await self._accept_forever()
        # Only answered() ends that nursery without an exception.
        self.close()
        self.rules.emit(Done(address=self.address, time=utc_now()))
        self._handout.close(self.address)

    def close(self) -> None:
        """Stop listening. May be repeated."""
        self.listener.close()

    def change_listener(self, listener: Listener) -> None:
        """Go on with another listener, and answer who still waits in the queue of this one."""
        before, self.listener = self.listener, listener
        self._lookout.unregister(before.sock)
        self._lookout.register(listener.sock, select.POLLIN)
        trio.lowlevel.notify_closing(before.sock)  # the listener task wakes up
        self._handlers.start_soon(self._empty, before, name=f"rest of {self.address}")

    def answered(self, connection: Connection) -> None:
        """Note that an enclave was answered. A one-shot address is done with that."""
        self.is_closed = self.rules.once
        if self.rules.reports:
            self.heartbeat = connection.heartbeat()
            self.rules.emit(self.heartbeat)
            self._handout.arrive(self.heartbeat)
        if self.rules.once:
            self._handlers.cancel_scope.cancel()

    def rearm(self) -> None:
        """Forget what was answered, and abandon those who have not been."""
        self.latch.reset()
        for connection in [each for each in self.waiting if each.port is self]:
            connection.abandon()

    def dismiss(self, fd: int) -> None:
        """Stop waiting for a connection, whose descriptor is about to be closed."""
        if self._newcomers.pop(fd, None) is not None:
            self._lookout.unregister(fd)
        trio.lowlevel.notify_closing(fd)  # its handler task, if it has one, wakes up and ends

    async def _accept_forever(self) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(self.listener.sock)
            except trio.ClosedResourceError:  # there is another one
                continue
            try:
                await self._stay_awake()
            finally:
                self._hand_over_since(math.inf)

    async def _empty(self, listener: Listener) -> None:
        """Accept who waits in the queue of a listener that nobody finds any more, and close it."""
        with listener:
            while listener.is_awaited():
                if not self._accept_batch(listener):
                    await trio.sleep(_EXHAUSTION_PAUSE)
                await trio.lowlevel.checkpoint()

    async def _stay_awake(self) -> None:
        """Take who is there, and then look on for a moment, instead of going to sleep at once.

        An enclave sends its byte just after it connects, and another may connect just now; and to
        fall asleep and wake up again takes longer than all the rest of a heartbeat. Now and then
        there is a checkpoint, for the other listeners, the handlers and a cancellation.
        """
        now = time.monotonic_ns()
        quiet, checkpoint = now, now + _CHECKPOINT
        while now <= quiet:
            if ready := self._lookout.poll(0):
                if not self._attend(ready):
                    await trio.sleep(_EXHAUSTION_PAUSE)
                    return
                quiet = time.monotonic_ns() + (_BYTE_IS_NEAR if self._newcomers else _PEER_IS_NEAR)
            now = time.monotonic_ns()
            if now >= checkpoint:
                self._hand_over_since(now - _BYTE_IS_NEAR)
                await trio.lowlevel.checkpoint()
                now = time.monotonic_ns()
                checkpoint = now + _CHECKPOINT

    def _attend(self, ready: list[tuple[int, int]]) -> bool:
        """Attend to whoever has something for us.

        Returns:
            False if there is no room for anybody more, and none can be made.
        """
        for fd, _ in ready:
            if connection := self._newcomers.get(fd):
                if not connection.advance():
                    self._hand_over(connection)
            elif not self._accept_batch(self.listener):
                return False
        return True

    def _accept_batch(self, listener: Listener) -> bool:
        """Accept those who are there, at most a batch of them, and answer who has spoken.

        Returns:
            False if there is no room for anybody more, and none can be made.
        """
        for number in range(_BATCH):
            try:
                fd, peer = listener.accept()
            except BlockingIOError:
                # Readable, and yet nobody: a peer has given up meanwhile, or the socket is dead.
                if number == 0 and listener.is_shut_down():
                    raise listen_error(self.address, errno.ESHUTDOWN) from None
                return True
            except OSError as error:
                if not self._can_go_on(error):
                    return False
            else:
                self._welcome(Connection(self, fd, peer))
            if self.latch.answered:
                return True
        return True

    def _can_go_on(self, error: OSError) -> bool:
        """Whether to accept the next one after an error of accept(), if it is not fatal."""
        if error.errno in _EXHAUSTION_ERRNOS:
            return self.waiting.make_room()
        if error.errno not in _CONNECTION_ERRNOS:
            raise listen_error(self.address, error.errno or 0) from error
        return True

    def _welcome(self, connection: Connection) -> None:
        if connection.begin():
            return
        connection.looked_at_since = time.monotonic_ns()
        self._newcomers[connection.fd] = connection
        self._lookout.register(connection.fd, select.POLLIN)
        if len(self.waiting) > _FEW:
            self._hand_over(connection)

    def _hand_over_since(self, moment: float) -> None:
        """Leave those to handler tasks that were newcomers at some moment and are silent still."""
        for connection in list(self._newcomers.values()):
            if connection.looked_at_since <= moment:
                self._hand_over(connection)

    def _hand_over(self, connection: Connection) -> None:
        """Leave a newcomer that is still silent to a handler task."""
        del self._newcomers[connection.fd]
        self._lookout.unregister(connection.fd)
        self._handlers.start_soon(connection.handle, name=f"handler {self.address}")
