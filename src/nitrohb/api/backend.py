# SPDX-License-Identifier: Apache-2.0
"""What the interface knows of the heartbeat server, from its events, and asks of it."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager

import trio

from ..addresses import Address
from ..events import Connected, Done, Event, Heartbeat, Listening, Lost
from ..remedies import LOOPBACK_CID
from ..server import HeartbeatServer
from .feed import Feed
from .inputs import Claim
from .metrics import Metrics

__all__ = ["Backend"]


class Backend(trio.TaskStatus[HeartbeatServer]):
    """Stands between a server and the HTTP interface to it.

    It is the ``task_status`` and the ``on_event`` of :func:`serve_heartbeat`, so that it knows the
    server as soon as it runs.

    Args:
        addresses: Where the server is to listen.

    Attributes:
        server: The server; None as long as it has not started.
        metrics: What it has done so far, in figures.
        feed: What it does, as it happens.
    """

    def __init__(self, addresses: Iterable[Address]) -> None:
        self.server: HeartbeatServer | None = None
        self._listening = dict.fromkeys(addresses, False)
        self.metrics = Metrics()
        self.feed = Feed()
        self._waiting: list[Claim] = []
        self._over_loopback: dict[Address, float] = {}  # when somebody last came from there

    def started(self, value: HeartbeatServer) -> None:
        """Take the server, which has started."""
        self.server = value

    def before(self, on_event: Callable[[Event], object]) -> Callable[[Event], object]:
        """What takes the events of the server, and passes them on to another."""

        def both(event: Event) -> None:
            self.on_event(event)
            on_event(event)

        return both

    def on_event(self, event: Event) -> None:
        """Take an event of the server."""
        if isinstance(event, Listening | Lost | Done):
            self._listening[event.address] = isinstance(event, Listening)
        elif isinstance(event, Connected) and event.cid == LOOPBACK_CID:
            self._over_loopback[event.address] = trio.current_time()
        self.metrics.on_event(event)
        self.feed.on_event(event)

    @contextmanager
    def waiting(self, claim: Claim) -> Generator[None]:
        """Know of a claim while it waits."""
        self._waiting.append(claim)
        try:
            yield
        finally:
            self._waiting.remove(claim)

    def awaits_cid(self) -> bool:
        """Whether a claim waits for a CID that nobody has who connects over the loopback."""
        return any(_is_of_one_vm(claim.cid) for claim in self._waiting)

    def may_be_meant(self, claim: Claim, since: float) -> bool:
        """Whether somebody whose CID the loopback hides may have brought what is claimed.

        Args:
            claim: What is claimed.
            since: The earliest time of trio's clock at which it may have come.
        """
        return _is_of_one_vm(claim.cid) and any(
            came >= since and claim.address in (None, str(address))
            for address, came in self._over_loopback.items()
        )

    @property
    def is_ready(self) -> bool:
        """Whether every address listens."""
        return self.server is not None and all(self._listening.values())

    def listeners(self) -> Iterator[tuple[Address, bool]]:
        """Every address, and whether it listens."""
        return iter(self._listening.items())

    def last_heartbeats(self) -> list[Heartbeat]:
        """The last heartbeat of each enclave."""
        return [] if self.server is None else self.server.last_heartbeats()


def _is_of_one_vm(cid: int | None) -> bool:
    """Whether it is a CID, and not the one that everybody has who connects over the loopback."""
    return cid not in (None, LOOPBACK_CID)
