# SPDX-License-Identifier: Apache-2.0
"""A connection, from its acceptance to its end, and those that wait for their byte."""

import os
from collections.abc import Iterator
from typing import Final, Protocol

import trio

from . import wire
from .addresses import Address, VsockAddress
from .events import Connected, Disconnected, Evicted, Heartbeat, Rejected, RejectReason, utc_now
from .listeners import Listener
from .pending import Pending
from .protocol import Latch, ParentHandshake, State
from .rules import Rules

__all__ = ["Connection", "Waiting"]

_WAITING: Final = State.WAITING  # see protocol.py


class Port(Protocol):
    """What a connection has to do with the address where it came in."""

    address: Address
    listener: Listener
    rules: Rules
    waiting: "Waiting"
    latch: Latch
    since: float

    def answered(self, connection: "Connection") -> None:
        """Note that an enclave was answered."""

    def dismiss(self, fd: int) -> None:
        """Stop waiting for a connection, whose descriptor is about to be closed."""


class Connection:
    """One connection, from its acceptance to the one event that tells how it ended.

    Attributes:
        port: Where it came in.
        fd: Its descriptor; -1 when it is closed.
        looked_at_since: When it became a newcomer, in nanoseconds of the monotonic clock.
    """

    __slots__ = (
        "_accepted",
        "_deadline",
        "_echoed",
        "_handshake",
        "_peer",
        "_received",
        "_whose",
        "fd",
        "looked_at_since",
        "port",
    )

    looked_at_since: int

    def __init__(self, port: Port, fd: int, peer: VsockAddress | None) -> None:
        self.fd = fd
        self.port = port
        self._peer = peer
        self._whose: int | None = None  # known while it waits
        self._handshake = ParentHandshake(port.latch)
        self._echoed = False

    def begin(self) -> bool:
        """Report it, answer it if it has spoken, else let it wait; say whether it is over."""
        rules = self.port.rules
        try:
            if rules.reports:
                self._accepted = trio.current_time()
                rules.emit(Connected(address=self.port.address, time=utc_now(), peer=self._peer))
            if rules.allow(self._peer):
                return self.advance() or self._wait()
        except BaseException:
            self._close()
            raise
        self._close()
        self._reject(RejectReason.CID)
        return True

    def advance(self) -> bool:
        """Go as far as possible without waiting, and say whether it is over."""
        if self._handshake.state is _WAITING:
            if (data := wire.try_receive(self.fd)) is None:
                return False
            self._handshake.receive(data)
            if self.port.rules.reports:
                self._received = utc_now()
        if reply := self._handshake.reply:
            if (sent := wire.try_send(self.fd, reply)) is None:
                return False
            self._echoed = sent
        self._close()
        self._conclude()
        return True

    def evict(self) -> None:
        """Close it to make room, unless it has spoken at the last moment and can be answered."""
        if self.advance():
            return
        self._close()
        if self._handshake.state is State.WAITING:
            evicted = Evicted(address=self.port.address, time=utc_now(), peer=self._peer)
            self.port.rules.emit(evicted)
        else:
            self._conclude()

    def abandon(self) -> None:
        """Close it, whatever it may have said meanwhile, because its address begins anew."""
        self._close()
        self._reject(RejectReason.REARMED)

    async def handle(self) -> None:
        """Be the one-shot handler task of a connection that had nothing to say at first."""
        try:
            with trio.move_on_at(self._deadline) as deadline:
                await self._finish()
            if deadline.cancelled_caught and self.fd >= 0 and not self.advance():
                self._close()
                self._conclude()
        except trio.ClosedResourceError:
            assert self.fd < 0
        except trio.Cancelled:
            silent = self._handshake.state is State.WAITING
            if self._close() and silent and self.port.latch.answered:
                self._reject(RejectReason.ANSWERED)
            raise
        finally:
            self._close()

    def _close(self) -> bool:
        """Close it, and forget it where it waits. False: that has been done before."""
        if self.fd < 0:
            return False
        if self._whose is not None:
            self.port.waiting.remove(self._whose, self)
            self.port.dismiss(self.fd)
        os.close(self.fd)
        self.fd = -1
        return True

    def _wait(self) -> bool:
        """Let it wait for its byte: it is not over."""
        self._deadline = trio.current_time() + self.port.rules.handshake_timeout
        whose = self._identify()
        self.port.waiting.add(whose, self)
        self._whose = whose
        return False

    def _identify(self) -> int:
        """What tells its peer from others: the CID on AF_VSOCK, the process on a Unix socket."""
        return self.port.listener.identify(self.fd) if self._peer is None else self._peer.cid

    async def _finish(self) -> None:
        # It may have been evicted just when this task was about to run.
        while self.fd >= 0 and not self.advance():
            if self._handshake.state is State.WAITING:
                await trio.lowlevel.wait_readable(self.fd)
            else:
                await trio.lowlevel.wait_writable(self.fd)

    def _conclude(self) -> None:
        match self._handshake.state:
            case State.HEARTBEAT:
                self.port.answered(self)
            case State.WRONG_BYTE:
                self._reject(RejectReason.WRONG_BYTE)
            case State.LATE:
                self._reject(RejectReason.ANSWERED)
            case State.WAITING:
                self._reject(RejectReason.TIMEOUT)
            case State.CLOSED:
                gone = Disconnected(address=self.port.address, time=utc_now(), peer=self._peer)
                self.port.rules.emit(gone)

    def heartbeat(self) -> Heartbeat:
        """What to report when it has been answered."""
        now = trio.current_time()
        assert self._handshake.byte is not None
        return Heartbeat(
            address=self.port.address,
            time=self._received,
            peer=self._peer,
            byte=self._handshake.byte,
            listening_seconds=now - self.port.since,
            echo_seconds=now - self._accepted,
            echoed=self._echoed,
        )

    def _reject(self, reason: RejectReason) -> None:
        rejected = Rejected(
            address=self.port.address,
            time=utc_now(),
            peer=self._peer,
            reason=reason,
            byte=self._handshake.byte,
        )
        self.port.rules.emit(rejected)


class Waiting:
    """Those who have connected and not spoken yet, on all addresses together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = Pending[Connection]()

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._pending)

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, whose: int, connection: Connection) -> None:
        """Let a peer's connection wait; somebody has to go if it is one too many."""
        if len(self._pending) >= self._limit:
            self.make_room()
        self._pending.add(whose, connection)

    def remove(self, whose: int, connection: Connection) -> None:
        """Let a connection wait no longer."""
        self._pending.remove(whose, connection)

    def make_room(self) -> bool:
        """Evict one connection, if there is one, and say whether there was."""
        if (victim := self._pending.victim()) is None:
            return False
        victim.evict()
        return True
