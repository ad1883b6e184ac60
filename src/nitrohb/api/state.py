# SPDX-License-Identifier: Apache-2.0
"""What the interface knows about the heartbeat server, from its events."""

from collections.abc import Iterable

import trio

from .. import events
from ..addresses import Address
from ..handle import HeartbeatServer
from ..remedies import LOOPBACK_CID
from .metrics import Metrics
from .requests import Claim
from .streaming import EventLog


class ServerState(trio.TaskStatus[HeartbeatServer]):
    """Connects a heartbeat server to its HTTP interface.

    Pass it to ``serve_heartbeat()`` as ``task_status``, and its ``on_event`` as ``on_event``.

    Args:
        addresses: The listen addresses of the server.

    Attributes:
        server: The server; None until it has started.
        listening: Whether it listens, by address.
        metrics: Counts the events.
        log: The latest events.
        waiting_claims: The claims that wait for a heartbeat.
    """

    def __init__(self, addresses: Iterable[Address]) -> None:
        self.server: HeartbeatServer | None = None
        self.listening = dict.fromkeys(addresses, False)
        self.metrics = Metrics()
        self.log = EventLog()
        self.waiting_claims: list[Claim] = []
        self._over_loopback: dict[Address, float] = {}  # when the last one connected

    def started(self, value: HeartbeatServer) -> None:
        """Store the server. ``serve_heartbeat()`` calls this when every address listens."""
        self.server = value

    def on_event(self, event: events.Event) -> None:
        """Record an event of the server."""
        match event:
            case events.Listening() | events.Lost() | events.Done():
                self.listening[event.address] = isinstance(event, events.Listening)
            case events.Unlistened():
                self._forget(event.address)
            case events.Connected() if event.cid == LOOPBACK_CID:
                self._over_loopback[event.address] = trio.current_time()
            case _:
                pass
        self.metrics.count(event)
        self.log.append(event)

    def _forget(self, address: Address) -> None:
        del self.listening[address]
        self._over_loopback.pop(address, None)

    def awaits_cid(self) -> bool:
        """Return whether a claim waits for a CID that the loopback would hide."""
        return any(_is_hidden_by_loopback(claim.cid) for claim in self.waiting_claims)

    def might_have_come_over_loopback(self, claim: Claim, since: float) -> bool:
        """Return whether the loopback might have hidden the CID of the claimed enclave.

        Args:
            claim: The claim.
            since: The earliest time of the connection, on trio's clock.
        """
        return _is_hidden_by_loopback(claim.cid) and any(
            came >= since and claim.address in (None, address)
            for address, came in self._over_loopback.items()
        )

    def last_heartbeats(self) -> list[events.Heartbeat]:
        """Return the last heartbeat of each enclave."""
        return [] if self.server is None else self.server.last_heartbeats()


def _is_hidden_by_loopback(cid: int | None) -> bool:
    """Return whether a peer that connects over the loopback cannot have this CID."""
    return cid not in (None, LOOPBACK_CID)
