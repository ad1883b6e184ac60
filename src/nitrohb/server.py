# SPDX-License-Identifier: Apache-2.0
"""The heartbeat server: a nursery with one listener task per address.

::

    serve_heartbeat()                     opens every address, or none
    └── nursery
        ├── keep_socket_files()           makes those anew that others delete: socketfiles.py
        └── nursery
            ├── Port.serve()                  listener task of one address: port.py
            │   └── nursery
            │       ├── _accept_forever()     answers at once who has spoken, or in a moment
            │       ├── Connection.handle()   one-shot handler task of who has not: connection.py
            │       └── ...
            └── ...

The byte is nearly always there when a connection is accepted, or a moment later. So it is read,
checked and echoed right then, without a task, and only a connection that has nothing to say yet
gets one. Those are counted per peer (:mod:`nitrohb.pending`): when there is no more room, the peer
that holds the most loses its oldest. While nobody comes, there is not a single system call.

What a byte means is decided in :mod:`nitrohb.protocol`, and nowhere here.
"""

from collections.abc import Collection
from typing import Final

import trio

from .addresses import CID_ANY, Address, VsockAddress, parse_address
from .claims import Wanted
from .connection import Waiting
from .errors import UsageError
from .events import Heartbeat, Listening
from .handout import Handout
from .listeners import Listen, Listener, open_listeners, resolve, take_over
from .port import Port
from .protocol import HEARTBEAT_PORT
from .rules import OnEvent, Rules, check_cid
from .socketfiles import keep_socket_files

__all__ = ["HeartbeatServer", "OnEvent", "serve_heartbeat"]

DEFAULT_LISTEN: Final = VsockAddress(CID_ANY, HEARTBEAT_PORT)


class HeartbeatServer:
    """A running server, as ``nursery.start(serve_heartbeat, ...)`` returns it.

    Attributes:
        addresses: Where it listens, in the order of the call.
    """

    def __init__(self, ports: list[Port], rules: Rules, handout: Handout) -> None:
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
        check_cid("cid", cid)
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
        rules = Rules(once, allow_cids, any_byte, handshake_timeout, max_pending, on_event)
        rules.reports |= task_status is not trio.TASK_STATUS_IGNORED  # to whoever waits for one
        targets = resolve(listen or (DEFAULT_LISTEN,))
        rules.check_cids(targets)
        ages = [target.age if isinstance(target, Listener) else 0.0 for target in targets]
        listeners = open_listeners(targets)
        for listener in listeners:
            closing.callback(listener.close)
        rules.check_cids(listeners)
        waiting = Waiting(max_pending)
        handout = Handout((listener.address, listener.has_cids) for listener in listeners)
        ports = [Port(*of, rules, waiting, handout) for of in zip(listeners, ages, strict=True)]
        for port in ports:
            closing.callback(port.close)  # by then it may have another listener than the first
        closing.push(handout.end)
        await _serve(ports, rules, task_status, HeartbeatServer(ports, rules, handout))
    return [port.heartbeat for port in ports if port.heartbeat is not None]


async def _serve(
    ports: list[Port],
    rules: Rules,
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
