# SPDX-License-Identifier: Apache-2.0
"""The heartbeat server: a nursery with one listener task per address.

::

    serve_heartbeat()                       opens every address, or none
    └── nursery
        ├── Acceptor.serve()                listener task of one address
        │   └── nursery
        │       ├── _accept_forever()       accepts, and answers the bytes that are there
        │       ├── _watch_socket_file()    creates a deleted socket file again
        │       ├── _handle()               one-shot handler task of one pending connection
        │       └── ...
        └── ...

A heartbeat takes this way: the listener task accepts a connection (:mod:`nitrohb.acceptor`). The
handshake reads the byte, and says what it means (:mod:`nitrohb.protocol`). The acceptor echoes the
byte, closes the connection, emits the event, and passes the heartbeat to the waiters
(:mod:`nitrohb.claims`). Connections that are silent are counted per peer (:mod:`nitrohb.pending`).
"""

import logging
from collections.abc import Callable, Collection
from typing import Final

import trio

from .acceptor import Acceptor, ServerContext
from .addresses import CID_ANY, Address, VsockAddress, parse_address
from .claims import ClaimFilter, ClaimQueue
from .errors import UsageError
from .events import Event, Heartbeat, Listening, Lost
from .pending import Pending
from .protocol import HEARTBEAT_PORT
from .sockets.listener import Listener
from .sockets.opening import ListenTarget, closing_stack, open_listeners, require_cids, resolve

OnEvent = Callable[[Event], object]

DEFAULT_LISTEN: Final = VsockAddress(CID_ANY, HEARTBEAT_PORT)

_log: Final = logging.getLogger(__package__)


class HeartbeatServer:
    """A running server, as ``nursery.start(serve_heartbeat, ...)`` returns it.

    Attributes:
        addresses: The listen addresses, in the order of the call.
    """

    def __init__(
        self, acceptors: list[Acceptor], claim_queue: ClaimQueue, allowed: frozenset[int] | None
    ) -> None:
        self.addresses = tuple(acceptor.address for acceptor in acceptors)
        self._acceptors = acceptors
        self._claims = claim_queue
        self._allowed = allowed

    def last_heartbeats(self) -> list[Heartbeat]:
        """The last heartbeat of each enclave, oldest first. Claims nothing.

        An enclave is known by its listen address and, on AF_VSOCK, by its CID. The server remembers
        the 1,024 enclaves that sent a heartbeat last.
        """
        return self._claims.last_heartbeats()

    async def wait_heartbeat(
        self,
        *,
        cid: int | None = None,
        address: Address | str | None = None,
        max_age: float = 60.0,
    ) -> Heartbeat:
        """Claim a heartbeat that has arrived, or wait for one. Each heartbeat is claimed once.

        Returns the newest unclaimed heartbeat that is young enough. If there is none, it waits for
        the next one. The task that has waited longest gets it. The last 16 unclaimed
        heartbeats of each enclave are kept.

        Args:
            cid: Accept only heartbeats of the enclave with this CID. Default: any.
            address: Accept only heartbeats on this one of :attr:`addresses`. Default: any. The
                peers of a Unix socket have no CID: tell enclaves apart by address.
            max_age: Accept a heartbeat that arrived at most so many seconds ago. An older one is
                probably that of an earlier boot of the enclave.

        Returns:
            The heartbeat.

        Raises:
            UsageError: The server does not listen on this address, no peer there has a CID, or the
                arguments make no sense.
            NoHeartbeatError: The server has ended, or has closed the address, and there is no such
                heartbeat left to claim.

        **Checkpoints.** It always executes a checkpoint, unless it raises UsageError. There is no
        time limit but the caller's cancel scope. A cancellation claims nothing.
        """
        if not max_age >= 0:  # not "< 0", which NaN would pass
            raise UsageError(f"max_age must be at least 0 s, got {max_age}")
        where = self._known_address(address)
        if cid is not None:
            self._check_cid(cid, where)
        return await self._claims.claim(ClaimFilter(cid, where, max_age))

    def rearm(self, address: Address | str | None = None) -> None:
        """Start over, as QEMU's device does when its machine is reset, and keep listening.

        The address forgets that it has answered. Pending connections are closed
        (:class:`Rejected`). Unclaimed heartbeats are dropped.

        Args:
            address: One of :attr:`addresses`. Default: all of them.

        Raises:
            UsageError: The server does not listen on this address, or no longer does: a one-shot
                address closes when it has answered.
        """
        where = self._known_address(address)
        acceptors = self._acceptors_of(where)
        if closed := [each for each in acceptors if each.is_done]:
            raise UsageError(
                f"{closed[0].address} cannot be rearmed: it is closed\n"
                "A one-shot address closes when it has answered. Use once=False to keep it open."
            )
        for acceptor in acceptors:
            self._claims.forget(acceptor.address)
            acceptor.rearm()

    def _acceptors_of(self, where: Address | None) -> list[Acceptor]:
        return [each for each in self._acceptors if where in (None, each.address)]

    def _check_cid(self, cid: int, where: Address | None) -> None:
        """Refuse a CID that can never be answered here."""
        _checked_cid("cid", cid)
        listeners = [acceptor.listener for acceptor in self._acceptors_of(where)]
        if not any(listener.has_cids for listener in listeners):
            raise UsageError(
                f"the peers of {listeners[0].address} have no CID: ask by address instead"
            )
        if self._allowed is not None and cid not in self._allowed:
            raise UsageError(f"CID {cid} is not in allow_cids, so it is never answered")

    def _known_address(self, address: Address | str | None) -> Address | None:
        where = parse_address(address) if isinstance(address, str) else address
        if where is not None and where not in self.addresses:
            known = ", ".join(map(str, self.addresses))
            raise UsageError(f"the server does not listen on {where}, but on {known}")
        return where


async def serve_heartbeat(
    *listen: ListenTarget,
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
    byte. (Source: init.c in aws-nitro-enclaves-sdk-bootstrap. :mod:`nitrohb.protocol` has the whole
    exchange.) Each address answers one heartbeat and closes, as QEMU's device does
    (hw/nitro/heartbeat.c), unless ``once`` is false. A connection that sends another byte, or none,
    is closed, and the address keeps listening. Connections do not wait for one another. If another
    process deletes or replaces a socket file, it is created again within a second (:class:`Lost`).

    To listen before the enclave starts, use ``await nursery.start(serve_heartbeat, ...)``.

    Args:
        *listen: The listen addresses, as text (``"vsock::9000"``) or as objects, or sockets that
            listen already, or listeners of :func:`open_listeners`. Default: ``vsock::9000``.
        once: Answer one heartbeat per address. If false, go on until cancelled.
        allow_cids: The CIDs to answer. A connection from another CID is closed before anything is
            read from it. None allows all. Only for AF_VSOCK: the peers of a Unix socket have no
            CID.
        any_byte: Echo any first byte, as QEMU's device does.
        handshake_timeout: Seconds that a connection may stay silent.
        max_pending: How many connections may be silent at a time, on all addresses together. One
            more, or a lack of descriptors or memory, evicts the oldest connection of the peer that
            holds the most (:class:`Evicted`). Each takes about 4 KiB. A peer is known by its CID on
            AF_VSOCK, and by its process on a Unix socket. Processes that this PID namespace does
            not show are one peer per address.
        on_event: Called with every event, in order, in this task's thread. It must not block. If it
            is None, a socket file that is lost and cannot be created again is logged
            (:mod:`logging`).
        task_status: For ``nursery.start()``: started with a :class:`HeartbeatServer` when *every*
            address accepts connections.

    Returns:
        The heartbeats, one per address, in the order of the addresses. With ``once=False`` it
        never returns.

    Raises:
        AddressError: An address is malformed.
        UsageError: The arguments contradict each other or make no sense.
        ListenError: An address cannot be listened on. Then none is: the others are closed again.

    **Checkpoints.** It opens the addresses without a checkpoint, and then always executes one.
    There is no time limit but the caller's cancel scope, for example ``trio.fail_after(60)``.

    **Resource handling.** Sockets and listeners that you pass belong to this call: it closes them,
    however it ends. A cancellation at any checkpoint leaves nothing behind: no open descriptor, no
    socket file, no task.

    **Error handling.** No peer can end the server. If a listening socket breaks (``ListenError``),
    or ``on_event`` raises, everything is closed, and the error is raised in an exception group, as
    by any nursery.
    """
    with closing_stack(listen) as closing:
        allowed = _validate(allow_cids, handshake_timeout, max_pending)
        targets = resolve(listen or (DEFAULT_LISTEN,))
        if allowed is not None:
            require_cids(targets)
        ages = [target.age if isinstance(target, Listener) else 0.0 for target in targets]
        listeners = open_listeners(targets)
        for listener in listeners:
            closing.callback(listener.close)
        if allowed is not None:
            require_cids(listeners)  # the family of an inherited socket is known only now
        # Only somebody who gets the server, by nursery.start(), can claim a heartbeat.
        wants_server = task_status is not trio.TASK_STATUS_IGNORED
        claims = ClaimQueue((listener.address, listener.has_cids) for listener in listeners)
        context = ServerContext(
            once=once,
            allow_cids=allowed,
            any_byte=any_byte,
            handshake_timeout=handshake_timeout,
            max_pending=max_pending,
            emit=on_event or _log_problem,
            wants_events=once or wants_server or on_event is not None,
            claim_queue=claims if wants_server else None,
            pending=Pending(),
        )
        acceptors = [
            Acceptor(listener, age, context) for listener, age in zip(listeners, ages, strict=True)
        ]
        for acceptor in acceptors:
            closing.callback(acceptor.close)  # it may have replaced its listener
        with claims:
            async with trio.open_nursery() as nursery:
                for acceptor in acceptors:
                    context.emit(Listening(address=acceptor.address, time=acceptor.listener.time))
                    nursery.start_soon(acceptor.serve, name=f"listener {acceptor.address}")
                task_status.started(HeartbeatServer(acceptors, claims, allowed))
    return [acceptor.heartbeat for acceptor in acceptors if acceptor.heartbeat is not None]


def _validate(
    allow_cids: Collection[int] | None, handshake_timeout: float, max_pending: int
) -> frozenset[int] | None:
    if not handshake_timeout > 0:  # not "<= 0", which NaN would pass
        raise UsageError(f"handshake_timeout must be more than 0 s, got {handshake_timeout}")
    if max_pending < 1:
        raise UsageError(f"max_pending must be at least 1, got {max_pending}")
    if allow_cids is None:
        return None
    if not allow_cids:
        raise UsageError("allow_cids is empty: no enclave would be answered (None allows all)")
    return frozenset(_checked_cid("allow_cids", cid) for cid in allow_cids)


def _checked_cid(name: str, cid: object) -> int:
    if not isinstance(cid, int) or not 0 <= cid < CID_ANY:
        raise UsageError(f"{name}: expected CIDs from 0 to {CID_ANY - 1}, got {cid!r}")
    return cid


def _log_problem(event: Event) -> None:
    """Log what must not go unnoticed, in the place of ``on_event``."""
    if isinstance(event, Lost) and event.problem is not None:
        _log.warning("nitrohb: %s", event.explanation)
