# SPDX-License-Identifier: Apache-2.0
"""The heartbeat server: a nursery with one listener task per address.

::

    serve_heartbeat()                 opens every address, or none
    └── nursery
        ├── _Port.serve()             listener task of one address: accepts, until it is answered
        │   └── nursery
        │       ├── _Connection.handle()   one-shot handler task, with its own deadline
        │       └── ...
        └── ...

What a byte means is decided in :mod:`nitrohb.protocol`, and nowhere here.
"""

import errno
import socket
from collections.abc import Callable, Collection, Iterable
from typing import Final

import trio

from . import wire
from .addresses import CID_ANY, Address, VsockAddress
from .errors import UsageError
from .events import (
    Connected,
    Disconnected,
    Done,
    Event,
    Heartbeat,
    Listening,
    Rejected,
    RejectReason,
    utc_now,
)
from .listeners import (
    Listen,
    Listener,
    Target,
    open_listeners,
    require_cids,
    resolve,
    take_over,
)
from .protocol import HEARTBEAT_PORT, Latch, ParentHandshake, State
from .remedies import listen_error

__all__ = ["HeartbeatServer", "OnEvent", "serve_heartbeat"]

OnEvent = Callable[[Event], object]

DEFAULT_LISTEN: Final = VsockAddress(CID_ANY, HEARTBEAT_PORT)

# What accept(2) can fail with. The first set concerns the one connection that it would have
# returned: go on with the next. The second is exhaustion: it passes, so wait a little, as
# trio.serve_listeners does. Anything else is about the listening socket itself, and fatal.
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
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ETIMEDOUT,
    errno.EINTR,
}
_EXHAUSTION_ERRNOS: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTION_PAUSE: Final = 0.1  # seconds


class HeartbeatServer:
    """A running server, as ``nursery.start(serve_heartbeat, ...)`` returns it.

    Attributes:
        addresses: Where it listens, in the order of the call.
    """

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self.addresses = addresses


async def serve_heartbeat(
    *listen: Listen,
    once: bool = True,
    allow_cids: Collection[int] | None = None,
    any_byte: bool = False,
    handshake_timeout: float = 5.0,
    on_event: OnEvent | None = None,
    task_status: trio.TaskStatus[HeartbeatServer] = trio.TASK_STATUS_IGNORED,
) -> list[Heartbeat]:
    """Listen for enclaves' heartbeats, and answer them.

    An enclave's init connects to its parent (CID 3, port 9000), sends 0xB7 and waits for the same
    byte back. (Source: init.c in aws-nitro-enclaves-sdk-bootstrap. :mod:`nitrohb.protocol` has the
    whole exchange.) Each address answers one heartbeat and closes, as QEMU's device does
    (hw/nitro/heartbeat.c), unless ``once`` is false. A connection that sends another byte, or none,
    is closed, and the address goes on listening. Connections do not wait for one another.

    The way to be there before the enclave is ``await nursery.start(serve_heartbeat, ...)``.

    Args:
        *listen: Where to listen: addresses as text (``"vsock::9000"``) or as objects, sockets that
            are already listening, or listeners of :func:`open_listeners`. Default: ``vsock::9000``.
        once: Answer one heartbeat per address. If false, go on until cancelled.
        allow_cids: The CIDs that are answered; any other is closed before a byte is read from it.
            None allows all of them. Only for AF_VSOCK: a Unix socket's peer has no CID.
        any_byte: Echo whatever the first byte is, as QEMU's device does.
        handshake_timeout: Seconds that a connection may take from its acceptance to its echo.
        on_event: Called with every event, in order, in this task's thread. It must not block.
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
        rules = _Rules(once, allow_cids, any_byte, handshake_timeout, on_event)
        targets = resolve(listen or (DEFAULT_LISTEN,))
        rules.check_cids(targets)
        ages = [target.age if isinstance(target, Listener) else 0.0 for target in targets]
        listeners = open_listeners(targets)
        for listener in listeners:
            closing.callback(listener.close)
        rules.check_cids(listeners)
        ports = [_Port(*of, rules) for of in zip(listeners, ages, strict=True)]
        return await _serve(ports, rules, task_status)


async def _serve(
    ports: "list[_Port]", rules: "_Rules", task_status: trio.TaskStatus[HeartbeatServer]
) -> list[Heartbeat]:
    async with trio.open_nursery() as nursery:
        for port in ports:
            rules.emit(Listening(address=port.address, time=port.listener.time))
            nursery.start_soon(port.serve, name=f"listener {port.address}")
        task_status.started(HeartbeatServer(tuple(port.address for port in ports)))
    return [port.heartbeat for port in ports if port.heartbeat is not None]


class _Rules:
    """What a server was asked to do: the arguments of :func:`serve_heartbeat`, checked."""

    def __init__(
        self,
        once: bool,
        allow_cids: Collection[int] | None,
        any_byte: bool,
        handshake_timeout: float,
        on_event: OnEvent | None,
    ) -> None:
        if not handshake_timeout > 0:  # not "<= 0", which NaN would pass
            raise UsageError(f"handshake_timeout must be more than 0 s, got {handshake_timeout}")
        if allow_cids is not None and not allow_cids:
            raise UsageError("allow_cids is empty, so nobody could be answered (None allows all)")
        self.once = once
        self.allow_cids = None if allow_cids is None else frozenset(allow_cids)
        self.any_byte = any_byte
        self.handshake_timeout = handshake_timeout
        self.emit: OnEvent = on_event or (lambda event: None)

    def check_cids(self, targets: Iterable[Target]) -> None:
        if self.allow_cids is not None:
            require_cids(targets)

    def allow(self, peer: VsockAddress | None) -> bool:
        return self.allow_cids is None or (peer is not None and peer.cid in self.allow_cids)


class _Port:
    """One listen address: its listener task, and what its connections have in common."""

    def __init__(self, listener: Listener, age: float, rules: _Rules) -> None:
        self.address = listener.address
        self.listener = listener
        self.rules = rules
        self.latch = Latch(once=rules.once, any_byte=rules.any_byte)
        self.since = trio.current_time() - age
        self.heartbeat: Heartbeat | None = None
        self._handlers: trio.Nursery

    async def serve(self) -> None:
        """Be the listener task: accept until this address is answered, or for ever."""
        async with trio.open_nursery() as self._handlers:
            await self._accept_forever()
        # Only answered() ends that nursery without an exception.
        self.listener.close()
        self.rules.emit(Done(address=self.address, time=utc_now()))

    def answered(self, heartbeat: Heartbeat) -> None:
        """Note that an enclave was answered. A one-shot address is done with that."""
        self.heartbeat = heartbeat
        self.rules.emit(heartbeat)
        if self.rules.once:
            self._handlers.cancel_scope.cancel()

    async def _accept_forever(self) -> None:
        while True:
            connection = _Connection(self, *await self._accept())
            self._handlers.start_soon(connection.handle, name=f"handler {self.address}")

    async def _accept(self) -> tuple[socket.socket, VsockAddress | None]:
        while True:
            await trio.lowlevel.wait_readable(self.listener.sock)
            try:
                return self.listener.accept()
            except BlockingIOError as error:  # its peer has given up meanwhile, or ...
                if self.listener.is_shut_down():
                    raise listen_error(self.address, errno.ESHUTDOWN) from error
            except OSError as error:
                if error.errno in _EXHAUSTION_ERRNOS:
                    await trio.sleep(_EXHAUSTION_PAUSE)
                elif error.errno not in _CONNECTION_ERRNOS:
                    raise listen_error(self.address, error.errno or 0) from error


class _Connection:
    """One connection, from its acceptance to the one event that tells how it ended."""

    def __init__(self, port: _Port, conn: socket.socket, peer: VsockAddress | None) -> None:
        self._port = port
        self._conn = conn
        self._peer = peer
        self._accepted = trio.current_time()
        self._handshake = ParentHandshake(port.latch)
        self._received = utc_now()
        self._echoed = False

    async def handle(self) -> None:
        """Be the one-shot handler task: report it, answer it, close it."""
        rules = self._port.rules
        with self._conn:
            rules.emit(Connected(address=self._port.address, time=utc_now(), peer=self._peer))
            if not rules.allow(self._peer):
                self._reject(RejectReason.CID)
                return
            try:
                with trio.move_on_at(self._accepted + rules.handshake_timeout):
                    await self._shake_hands()
            except trio.Cancelled:
                if self._port.latch.answered:
                    self._reject(RejectReason.ANSWERED)
                raise
            self._conclude()

    async def _shake_hands(self) -> None:
        self._handshake.receive(await wire.receive(self._conn, trio.lowlevel.wait_readable))
        self._received = utc_now()
        if reply := self._handshake.reply:
            self._echoed = await wire.send(self._conn, reply, trio.lowlevel.wait_writable)

    def _conclude(self) -> None:
        match self._handshake.state:
            case State.HEARTBEAT:
                self._port.answered(self._heartbeat())
            case State.WRONG_BYTE:
                self._reject(RejectReason.WRONG_BYTE)
            case State.LATE:
                self._reject(RejectReason.ANSWERED)
            case State.WAITING:
                self._reject(RejectReason.TIMEOUT)
            case State.CLOSED:
                gone = Disconnected(address=self._port.address, time=utc_now(), peer=self._peer)
                self._port.rules.emit(gone)

    def _heartbeat(self) -> Heartbeat:
        now = trio.current_time()
        return Heartbeat(
            address=self._port.address,
            time=self._received,
            peer=self._peer,
            listening_seconds=now - self._port.since,
            echo_seconds=now - self._accepted,
            echoed=self._echoed,
        )

    def _reject(self, reason: RejectReason) -> None:
        rejected = Rejected(
            address=self._port.address,
            time=utc_now(),
            peer=self._peer,
            reason=reason,
            byte=self._handshake.byte,
        )
        self._port.rules.emit(rejected)
