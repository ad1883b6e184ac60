# SPDX-License-Identifier: Apache-2.0
"""The heartbeat server: a nursery with one listener task per address.

::

    serve_heartbeat()                     opens every address, or none
    └── nursery
        ├── keep_socket_files()           makes those anew that others delete: socketfiles.py
        └── nursery
            ├── _Port.serve()                 listener task of one address
            │   └── nursery
            │       ├── _accept_forever()     answers at once who has spoken, or in a moment
            │       ├── _Connection.handle()  one-shot handler task of who has not, with a deadline
            │       └── ...
            └── ...

The byte is nearly always there when a connection is accepted, or a moment later. So it is read,
checked and echoed right then, without a task, and only a connection that has nothing to say yet
gets one. Those are counted per peer (:mod:`nitrohb.pending`): when there is no more room, the peer
that holds the most loses its oldest. While nobody comes, there is not a single system call.

What a byte means is decided in :mod:`nitrohb.protocol`, and nowhere here.
"""

import errno
import logging
import math
import os
import select
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

import trio

from . import wire
from .addresses import CID_ANY, Address, VsockAddress, parse_address
from .claims import Wanted
from .errors import UsageError
from .events import (
    Connected,
    Disconnected,
    Done,
    Event,
    Evicted,
    Heartbeat,
    Listening,
    Lost,
    Rejected,
    RejectReason,
    utc_now,
)
from .handout import Handout
from .listeners import (
    Listen,
    Listener,
    Target,
    open_listeners,
    require_cids,
    resolve,
    take_over,
)
from .pending import Pending
from .protocol import HEARTBEAT_PORT, Latch, ParentHandshake, State
from .remedies import listen_error
from .socketfiles import keep_socket_files

__all__ = ["HeartbeatServer", "OnEvent", "serve_heartbeat"]

OnEvent = Callable[[Event], object]

DEFAULT_LISTEN: Final = VsockAddress(CID_ANY, HEARTBEAT_PORT)

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

_WAITING: Final = State.WAITING  # see protocol.py

_log: Final = logging.getLogger(__name__)


class HeartbeatServer:
    """A running server, as ``nursery.start(serve_heartbeat, ...)`` returns it.

    Attributes:
        addresses: Where it listens, in the order of the call.
    """

    def __init__(self, ports: "list[_Port]", rules: "_Rules", handout: Handout) -> None:
        self.addresses = tuple(port.address for port in ports)
        self._ports = ports
        self._rules = rules
        self._handout = handout

    def last_heartbeats(self) -> list[Heartbeat]:
        """The last heartbeat of each enclave, in the order in which they came. Claims nothing.

        An enclave is known by the address that it came in on and, on AF_VSOCK, by its CID. The
        1,024 that have sent a heartbeat last are remembered.
        """
        return self._handout.last()

    async def wait_heartbeat(
        self,
        *,
        cid: int | None = None,
        address: Address | str | None = None,
        max_age: float = 60.0,
    ) -> Heartbeat:
        """Claim a heartbeat: each is handed out once, asked for before or after it has come.

        Of those that nobody has claimed yet the newest is returned, if it is young enough. Else it
        waits for the next; whoever waits longest gets it. The last 16 of each enclave can be
        claimed.

        Args:
            cid: Of the enclave with this CID. Default: of any.
            address: That came in on this listen address, one of :attr:`addresses`. Default: any.
                A Unix socket's peer has no CID: there the address tells enclaves apart.
            max_age: Seconds since it came, at the most, so that it is not that of an earlier boot.

        Returns:
            The heartbeat.

        Raises:
            UsageError: The server does not listen on this address, or a CID is asked for where
                there are none, or the arguments make no sense.
            ServerEndedError: The server has ended, or has closed the address, and no such
                heartbeat is left to claim.

        Always a checkpoint; there is no time limit but the caller's cancel scope. A cancellation
        claims nothing: the heartbeat is there for the next who asks.
        """
        return await self._handout.claim(self._wanted(cid, address, max_age))

    def rearm(self, address: Address | str | None = None) -> None:
        """Begin anew, as a device does when its machine is reset, and go on listening.

        The address forgets that it has answered; a connection whose heartbeat has not been answered
        yet is abandoned (:class:`Rejected`); what came in before can no longer be claimed.

        Args:
            address: One of :attr:`addresses`. Default: all of them.

        Raises:
            UsageError: The server does not listen on this address: not at all, or no longer. A
                one-shot address closes when it has answered.
        """
        where = self._parse(address)
        ports = [port for port in self._ports if where in (None, port.address)]
        if closed := [port for port in ports if port.is_closed]:
            raise UsageError(
                f"{closed[0].address} cannot be rearmed: it is closed\n"
                "A one-shot address is closed when it has answered; once=False keeps it open."
            )
        for port in ports:
            self._handout.forget(port.address)
            port.rearm()

    def _wanted(self, cid: int | None, address: Address | str | None, max_age: float) -> Wanted:
        if not max_age >= 0:  # not "< 0", which NaN would pass
            raise UsageError(f"max_age must be at least 0 s, got {max_age}")
        wanted = Wanted(cid, self._parse(address), max_age)
        if cid is not None:
            self._check_cid(cid, wanted.address)
        return wanted

    def _check_cid(self, cid: int, where: Address | None) -> None:
        """Refuse to wait for an enclave that is never answered here."""
        _check_cid("cid", cid)
        listeners = [port.listener for port in self._ports if where in (None, port.address)]
        if not any(listener.has_cids for listener in listeners):
            raise UsageError(
                f"the peers of {listeners[0].address} have no CID: ask by address instead"
            )
        if self._rules.allow_cids is not None and cid not in self._rules.allow_cids:
            raise UsageError(f"CID {cid} is not among the allowed ones, so it is never answered")

    def _parse(self, address: Address | str | None) -> Address | None:
        where = parse_address(address) if isinstance(address, str) else address
        if where is not None and where not in self.addresses:
            known = ", ".join(map(str, self.addresses))
            raise UsageError(f"the server does not listen on {where}, but on {known}")
        return where


async def serve_heartbeat(
    *listen: Listen,
    once: bool = True,
    allow_cids: Collection[int] | None = None,
    any_byte: bool = False,
    handshake_timeout: float = 5.0,
    max_pending: int = 1024,
    on_event: OnEvent | None = None,
    task_status: trio.TaskStatus[HeartbeatServer] = trio.TASK_STATUS_IGNORED,
) -> list[Heartbeat]:
    """Listen for enclaves' heartbeats, and answer them.

    An enclave's init connects to its parent (CID 3, port 9000), sends 0xB7 and waits for the same
    byte back. (Source: init.c in aws-nitro-enclaves-sdk-bootstrap. :mod:`nitrohb.protocol` has the
    whole exchange.) Each address answers one heartbeat and closes, as QEMU's device does
    (hw/nitro/heartbeat.c), unless ``once`` is false. A connection that sends another byte, or none,
    is closed, and the address goes on listening. Connections do not wait for one another. A socket
    file that is deleted or replaced by others is made anew within a second (:class:`Lost`).

    The way to be there before the enclave is ``await nursery.start(serve_heartbeat, ...)``.

    Args:
        *listen: Where to listen: addresses as text (``"vsock::9000"``) or as objects, sockets that
            are already listening, or listeners of :func:`open_listeners`. Default: ``vsock::9000``.
        once: Answer one heartbeat per address. If false, go on until cancelled.
        allow_cids: The CIDs that are answered; any other is closed before a byte is read from it.
            None allows all of them. Only for AF_VSOCK: a Unix socket's peer has no CID.
        any_byte: Echo whatever the first byte is, as QEMU's device does.
        handshake_timeout: Seconds that a connection may take from its acceptance to its echo.
        max_pending: How many connections may wait for their byte, on all addresses together. When
            one more comes, or accept(2) fails for want of descriptors or memory, the oldest
            connection of the peer that holds the most is closed (:class:`Evicted`). Each takes
            about 4 KiB. A peer is known by its CID on AF_VSOCK
            and by its process on a Unix socket.
        on_event: Called with every event, in order, in this task's thread. It must not block.
            Without it there is a line in the log (:mod:`logging`) for a socket file that is lost
            and cannot be made anew.
        task_status: For ``nursery.start()``: started with a :class:`HeartbeatServer` once *every*
            address accepts connections.

    Returns:
        The heartbeats, one per address, in the order of the addresses. With ``once=False`` it
        never returns.

    Raises:
        AddressError: An address is malformed.
        UsageError: Arguments contradict each other or make no sense.
        ListenError: An address cannot be listened on. Then none is: the others are closed again.

    **Time.** There is no time limit but the caller's cancel scope, say ``trio.fail_after(60)``.

    **Checkpoints.** It opens the addresses without a checkpoint, and then always executes one.

    **Resource handling.** Sockets that are handed in belong to this call from its start: they are
    closed when it ends, in whichever way. A cancellation, at whatever checkpoint, leaves nothing
    behind: no open descriptor, no socket file, no task.

    **Error handling.** What a peer does never ends the server. If a listening socket itself breaks
    (``ListenError``), or ``on_event`` raises, everything is closed, and the error is raised in an
    exception group, as from any nursery.
    """
    with take_over(listen) as closing:
        rules = _Rules(once, allow_cids, any_byte, handshake_timeout, max_pending, on_event)
        rules.reports |= task_status is not trio.TASK_STATUS_IGNORED  # to whoever waits for one
        targets = resolve(listen or (DEFAULT_LISTEN,))
        rules.check_cids(targets)
        ages = [target.age if isinstance(target, Listener) else 0.0 for target in targets]
        listeners = open_listeners(targets)
        for listener in listeners:
            closing.callback(listener.close)
        rules.check_cids(listeners)
        waiting = _Waiting(max_pending)
        handout = Handout((listener.address, listener.has_cids) for listener in listeners)
        ports = [_Port(*of, rules, waiting, handout) for of in zip(listeners, ages, strict=True)]
        for port in ports:
            closing.callback(port.close)  # by then it may have another listener than the first
        closing.push(handout.end)
        await _serve(ports, rules, task_status, HeartbeatServer(ports, rules, handout))
    return [port.heartbeat for port in ports if port.heartbeat is not None]


async def _serve(
    ports: "list[_Port]",
    rules: "_Rules",
    task_status: trio.TaskStatus[HeartbeatServer],
    server: HeartbeatServer,
) -> None:
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as listeners:
            for port in ports:
                rules.emit(Listening(address=port.address, time=port.listener.time))
                listeners.start_soon(port.serve, name=f"listener {port.address}")
            nursery.start_soon(keep_socket_files, ports, rules.emit)
            task_status.started(server)
        nursery.cancel_scope.cancel()


class _Rules:
    """What a server was asked to do: the arguments of :func:`serve_heartbeat`, checked."""

    def __init__(
        self,
        once: bool,
        allow_cids: Collection[int] | None,
        any_byte: bool,
        handshake_timeout: float,
        max_pending: int,
        on_event: OnEvent | None,
    ) -> None:
        if not handshake_timeout > 0:  # not "<= 0", which NaN would pass
            raise UsageError(f"handshake_timeout must be more than 0 s, got {handshake_timeout}")
        if allow_cids is not None and not allow_cids:
            raise UsageError("allow_cids is empty, so nobody could be answered (None allows all)")
        for cid in allow_cids or ():
            _check_cid("allow_cids", cid)
        if max_pending < 1:
            raise UsageError(f"max_pending must be at least 1, got {max_pending}")
        self.once = once
        self.allow_cids = None if allow_cids is None else frozenset(allow_cids)
        self.any_byte = any_byte
        self.handshake_timeout = handshake_timeout
        self.emit: OnEvent = on_event or _log_problem
        # What nobody learns of is not even made: neither the caller, from one shot, nor on_event.
        self.reports = once or on_event is not None

    def check_cids(self, targets: Iterable[Target]) -> None:
        if self.allow_cids is not None:
            require_cids(targets)

    def allow(self, peer: VsockAddress | None) -> bool:
        return self.allow_cids is None or (peer is not None and peer.cid in self.allow_cids)


def _log_problem(event: Event) -> None:
    """Stand in for ``on_event``: what keeps a server from its work must not go unnoticed."""
    if isinstance(event, Lost) and event.problem is not None:
        _log.error("nitrohb: %s", event.explanation)


def _check_cid(name: str, cid: object) -> None:
    if not isinstance(cid, int) or not 0 <= cid < CID_ANY:
        raise UsageError(f"{name}: expected CIDs from 0 to {CID_ANY - 1}, got {cid!r}")


class _Waiting:
    """Those who have connected and not spoken yet, on all addresses together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = Pending["_Connection"]()

    def __iter__(self) -> "Iterator[_Connection]":
        return iter(self._pending)

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, whose: int, connection: "_Connection") -> None:
        """Let a peer's connection wait; somebody has to go if it is one too many."""
        if len(self._pending) >= self._limit:
            self.make_room()
        self._pending.add(whose, connection)

    def remove(self, whose: int, connection: "_Connection") -> None:
        self._pending.remove(whose, connection)

    def make_room(self) -> bool:
        """Evict one connection, if there is one, and say whether there was."""
        if (victim := self._pending.victim()) is None:
            return False
        victim.evict()
        return True


class _Port:
    """One listen address: its listener task, and what its connections have in common."""

    def __init__(
        self, listener: Listener, age: float, rules: _Rules, waiting: _Waiting, handout: Handout
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
        self._newcomers: dict[int, _Connection] = {}  # by descriptor; few, see _FEW
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

    def answered(self, connection: "_Connection") -> None:
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
                self._welcome(_Connection(self, fd, peer))
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

    def _welcome(self, connection: "_Connection") -> None:
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

    def _hand_over(self, connection: "_Connection") -> None:
        """Leave a newcomer that is still silent to a handler task."""
        del self._newcomers[connection.fd]
        self._lookout.unregister(connection.fd)
        self._handlers.start_soon(connection.handle, name=f"handler {self.address}")


class _Connection:
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

    def __init__(self, port: _Port, fd: int, peer: VsockAddress | None) -> None:
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
