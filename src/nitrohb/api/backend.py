# SPDX-License-Identifier: Apache-2.0
"""What the interface knows of the heartbeat server, from its events, and asks of it."""

from collections.abc import Callable, Iterable, Iterator

import trio

from ..addresses import Address
from ..events import Done, Event, Heartbeat, Listening
from ..server import HeartbeatServer
from .feed import Feed
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

    def started(self, value: HeartbeatServer) -> None:
        """Take the server, which has started."""
        self.server = value

    def before(self, on_event: Callable[[Event], object] | None) -> Callable[[Event], object]:
        """What takes the events of the server, and passes them on to another, if there is one."""
        if on_event is None:
            return self.on_event

        def both(event: Event) -> None:
            self.on_event(event)
            on_event(event)

        return both

    def on_event(self, event: Event) -> None:
        """Take an event of the server."""
        if isinstance(event, Listening | Done):
            self._listening[event.address] = isinstance(event, Listening)
        self.metrics.on_event(event)
        self.feed.on_event(event)

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
