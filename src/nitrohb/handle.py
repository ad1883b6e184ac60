# SPDX-License-Identifier: Apache-2.0
"""The handle of a running server: it claims heartbeats, and adds and removes addresses.

Every method except ``wait_heartbeat()`` runs without a checkpoint. So no task sees an address that
is only partly added or removed.
"""

import errno
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from socket import socket
from typing import Final

import trio

from .acceptor import Acceptor, ServerContext
from .addresses import CID_ANY, Address, NamedDescriptor, as_address
from .arguments import check_seconds
from .claims import ClaimFilter, ClaimQueue
from .errors import KEEP_ADVICE, HeartbeatTimeoutError, ListenError, UsageError
from .events import Connected, Done, Heartbeat, Listening, Unlistened, utc_now
from .sockets.activation import find_named
from .sockets.listener import Listener
from .sockets.opening import (
    ListenTarget,
    Target,
    address_of,
    check_distinct,
    closing_stack,
    open_listeners,
    require_allowable,
    resolve,
)

_NAMED: Final = 8  # addresses that a message names


class Acceptors:
    """The acceptors of a server, by address, in the order in which they began to listen."""

    def __init__(self, context: ServerContext, claims: ClaimQueue) -> None:
        self.context = context
        self.claims = claims
        self._by_address: dict[Address, Acceptor] = {}
        self._nursery: trio.Nursery

    def __iter__(self) -> Iterator[Acceptor]:
        return iter(self._by_address.values())

    def __contains__(self, address: Address) -> bool:
        return address in self._by_address

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The listen addresses."""
        return tuple(self._by_address)

    def of(self, where: Address | None) -> list[Acceptor]:
        """Return the acceptor of one address, or all of them."""
        return [*self] if where is None else [self._by_address[where]]

    def open(self, listen: Iterable[ListenTarget], *, may_wait: bool) -> list[Acceptor]:
        """Open all targets, or none."""
        targets = resolve(listen)
        allowed = self.context.allowed or (None, None)
        require_allowable(targets, *allowed)
        ages = [target.age if isinstance(target, Listener) else 0.0 for target in targets]
        listeners = open_listeners(
            targets,
            socket_mode=self.context.socket_mode,
            socket_group=self.context.socket_group,
            may_wait=may_wait,
        )
        with closing_stack(listeners) as opened:
            require_allowable(listeners, *allowed)  # now also inherited sockets
            opened.pop_all()
        return [Acceptor(*each, self.context) for each in zip(listeners, ages, strict=True)]

    def start(self, acceptors: Iterable[Acceptor], nursery: trio.Nursery) -> None:
        """Serve acceptors that are open."""
        self._nursery = nursery
        for acceptor in acceptors:
            self._by_address[acceptor.address] = acceptor
            self.claims.open(acceptor.address, acceptor.listener.has_cids)
        for acceptor in acceptors:
            address = acceptor.address
            self.context.emit(Listening(address=address, time=acceptor.listener.time))
            nursery.start_soon(acceptor.serve, name=f"listener {address}")

    def listen(self, listen: ListenTarget) -> Address:
        """Open another target, and serve it."""
        with closing_stack([listen]) as closing:
            if not self._nursery.child_tasks:
                raise UsageError(
                    f"cannot listen on {listen}: the server has ended\nStart another one."
                )
            (target,) = resolve([listen])
            address = address_of(target)
            before = self._by_address.get(address)
            if before is not None and not before.is_done:
                sock = target.sock if isinstance(target, Listener) else target
                if isinstance(sock, socket) and sock.fileno() == before.listener.sock.fileno():
                    closing.pop_all()
                raise UsageError(
                    f"cannot listen on {address}: the server listens there already\n"
                    "Choose another address, or remove this one first (unlisten)."
                )
            if before is not None:
                before.end(Done)
            (acceptor,) = self._open_one(target, address)
            closing.pop_all()
        try:
            self._by_address.pop(address, None)
            self.start([acceptor], self._nursery)
        except BaseException:
            acceptor.close()
            self._forget(address)
            raise
        return address

    def _open_one(self, target: Target, address: Address) -> list[Acceptor]:
        try:
            return self.open([target], may_wait=False)
        except ListenError as error:
            if error.errno == errno.EADDRINUSE:  # perhaps by this server, with another name
                check_distinct([*(it.address for it in self if not it.is_done), address])
            raise

    def remove(self, address: Address) -> None:
        """Close an address, and forget it."""
        acceptor = self._by_address[address]
        self._forget(address)
        acceptor.end(Unlistened)

    def silent(self, where: Address | None) -> Iterator[Connected]:
        """Yield the pending connections of one address, or of all."""
        now = trio.current_time()
        for owner, connection in self.context.pending:
            if where in (None, owner.address):
                time = utc_now() - timedelta(seconds=now - connection.accepted_at)
                yield Connected(address=owner.address, time=time, peer=connection.identify())

    def close(self) -> None:
        """Close all listeners."""
        for acceptor in self:
            acceptor.close()

    def _forget(self, address: Address) -> None:
        self._by_address.pop(address, None)
        self.claims.remove(address)


class HeartbeatServer:
    """A running server. ``await nursery.start(serve_heartbeat, ...)`` returns it.

    Call its methods in the thread of the server. Only ``wait_heartbeat()`` waits. The other methods
    return without a checkpoint, and ``on_event`` can call them, too.
    """

    def __init__(self, acceptors: Acceptors) -> None:
        self._acceptors = acceptors
        self._claims = acceptors.claims

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The listen addresses, in the order in which the server began to listen on them.

        A one-shot address that has answered is still one of them.
        """
        return self._acceptors.addresses

    def listen(self, listen: ListenTarget) -> Address:
        """Listen on another address, and return it.

        The arguments of ``serve_heartbeat()`` apply, such as ``allow_cids`` and ``keep``. Peers can
        connect when this returns. You can listen again on a one-shot address that has answered.
        ``HeartbeatTimeoutError.instead`` then omits its earlier connections. A one-shot server ends
        when all its addresses have answered: add one before that, or use ``keep=True``.

        Args:
            listen: An address (text or object), a listening socket, or a ``Listener``. If the
                call fails, it closes the socket or listener, unless the server already uses it.

        Returns:
            The address, as in ``addresses``.

        Raises:
            AddressError: The text is not an address.
            UsageError: The server has ended, or already listens on the address, or no peer of the
                address can match ``allow_cids`` or ``allow_uids``.
            ListenError: nitrohb cannot listen on the address, for example because its directory
                does not exist yet. The server is unchanged, and you can try again later.
        """
        return self._acceptors.listen(listen)

    def unlisten(self, address: Address | str) -> None:
        """Remove an address. The other addresses stay as they are.

        When this returns, the address is closed, and a socket file that nitrohb created is removed.
        Its pending connections are closed (``Rejected``), and then comes ``Unlistened``. Its
        heartbeats are forgotten. A waiting task gets a ``NoHeartbeatError``, unless its heartbeat
        could arrive on another address.

        With ``keep=True``, the server keeps running without any address. A one-shot server ends
        when all remaining addresses have answered.

        Args:
            address: One of ``addresses``.

        Raises:
            UsageError: The address is not one of ``addresses``.
        """
        if where := self._known_address(address):
            self._acceptors.remove(where)
        else:
            raise UsageError("cannot remove the address None\nPass one of the addresses.")

    def last_heartbeats(self) -> list[Heartbeat]:
        """Return the last heartbeat of each enclave, oldest first, without claiming it.

        An enclave is identified by its listen address and, on AF_VSOCK, by its CID. The server
        remembers the 1,024 enclaves with the latest heartbeats.
        """
        return self._claims.last_heartbeats()

    async def wait_heartbeat(
        self,
        *,
        cid: int | None = None,
        address: Address | str | None = None,
        max_age: float = 60.0,
        timeout: float | None = None,
    ) -> Heartbeat:
        """Claim a heartbeat that has arrived, or wait for one. Each heartbeat is claimed once.

        It claims the newest unclaimed heartbeat that matches. If there is none, it waits for the
        next one. If several tasks wait, the task that has waited longest gets it. The server keeps
        the last 16 unclaimed heartbeats of each enclave.

        Args:
            cid: Claim only a heartbeat from this CID. Default: any.
            address: Claim only a heartbeat on this listen address, one of ``addresses``. Default:
                any. The peers of a Unix socket have no CID, so select them by address.
            max_age: Claim only a heartbeat that arrived at most this many seconds ago. An older one
                is probably from an earlier boot of the enclave.
            timeout: Wait at most this many seconds. None waits without a limit.

        Returns:
            The heartbeat.

        Raises:
            HeartbeatTimeoutError: No heartbeat arrived in time. Its ``instead`` lists connections
                of ``address`` (None: of every address): the pending ones, and per address the
                last 16 that have ended. A connection without a heartbeat is left out if it ended
                more than ``max_age`` seconds before the call.
            UsageError: The address is not one of ``addresses``, the server never answers this CID,
                or an argument is wrong.
            NoHeartbeatError: No heartbeat is left to claim, and none can arrive: the server has
                ended, or has no address that could receive it.

        **Checkpoints.** It always executes a checkpoint, unless it raises ``UsageError``. A
        cancellation claims nothing. Use ``timeout`` rather than ``trio.fail_after()``, whose error
        does not say what came instead.
        """
        check_seconds("max_age", max_age)
        limit = math.inf if timeout is None else timeout
        check_seconds("timeout", limit)
        where = self._known_address(address)
        if cid is not None:
            self._check_cid(cid, where)
        since = trio.current_time() - max_age
        if beat := await self._claims.claim(ClaimFilter(cid, where, max_age), limit):
            return beat
        sender = "" if cid is None else f" from CID {cid}"
        names = self._names() if where is None else where
        on = f" on {names}" if names else ""
        raise HeartbeatTimeoutError(
            f"no heartbeat{sender}{on} came within {timeout:g} s",
            (*self._claims.noted(where, since), *self._acceptors.silent(where)),
        )

    def rearm(self, address: Address | str | None = None) -> None:
        """Drop unclaimed heartbeats, close pending connections (``Rejected``), and keep listening.

        Args:
            address: One of ``addresses``. Default: all of them.

        Raises:
            UsageError: The address is not one of ``addresses``, or an address to rearm is closed,
                because it is one-shot and has answered. Then nothing changes.
        """
        where = self._known_address(address)
        acceptors = self._acceptors.of(where)
        if closed := [each for each in acceptors if each.is_done]:
            raise UsageError(f"cannot rearm {closed[0].address}: it is closed\n{KEEP_ADVICE}")
        for acceptor in acceptors:
            self._claims.forget(acceptor.address)
            acceptor.rearm()

    def _check_cid(self, cid: int, where: Address | None) -> None:
        """Reject a CID that can never be answered here."""
        checked_id("cid", cid)
        listeners = [acceptor.listener for acceptor in self._acceptors.of(where)]
        if listeners and not any(listener.has_cids for listener in listeners):
            raise UsageError(
                f"cannot wait for CID {cid}: the peers of {listeners[0].address} have no CID\n"
                "Wait for an address instead."
            )
        allowed = self._acceptors.context.allowed
        if allowed is not None and cid not in allowed.cids:
            raise UsageError(
                f"cannot wait for CID {cid}: it is not allowed, so it is never answered\n"
                "Choose another CID, or start the server with this one in its allow-list."
            )

    def _known_address(self, address: Address | str | None) -> Address | None:
        where = None if address is None else as_address(address)
        if isinstance(where, NamedDescriptor):  # the server knows its number
            with suppress(ListenError):
                where = find_named(where)
        if where is not None and where not in self._acceptors:
            known = self._names()
            others = f", but on {known}" if known else ""
            remedy = "Name one of its addresses." if known else "Listen on an address first."
            raise UsageError(f"the server does not listen on {where}{others}\n{remedy}")
        return where

    def _names(self) -> str:
        """The first addresses, for a message."""
        more = ["..."][: len(self.addresses) - _NAMED]
        return ", ".join([*map(str, self.addresses[:_NAMED]), *more])


def checked_id(name: str, number: object) -> int:
    """Return a CID or user ID, or raise UsageError. The value with all 32 bits set means none."""
    if not isinstance(number, int) or not 0 <= number < CID_ANY:
        raise UsageError(f"{name}: {number!r} is not valid\nPass numbers from 0 to {CID_ANY - 1}.")
    return number
