# SPDX-License-Identifier: Apache-2.0
"""``GET /events``: the latest events, and the response that streams them (server-sent events).

An event costs the server the same, however many clients read and however slow they are. The log
appends it and wakes one reader, which wakes the next one. So at most one reader wakes up in a pass
of the event loop. An event becomes text once, when the first reader needs it.
"""

import json
from collections import deque
from collections.abc import AsyncIterator
from functools import cached_property
from itertools import islice
from typing import Final

import trio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..events import Event
from .requests import ConcurrencyLimit

CAPACITY: Final = 256  # events
KEEP_ALIVE: Final = 15.0  # seconds without an event
_DIGITS: Final = 18  # no number of an event has more; Python refuses to read thousands


class TooSlowError(Exception):
    """A reader is so far behind that the log has dropped events that it has not read."""


class _Entry:
    def __init__(self, number: int, event: Event) -> None:
        self._number = number
        self._event = event

    @cached_property
    def text(self) -> str:
        data = json.dumps(self._event.to_json())
        return f"id: {self._number}\nevent: {self._event.name}\ndata: {data}\n\n"


class EventLog:
    """The latest events, for any number of readers.

    Attributes:
        last: The number of the last event. The first one has number 1.
    """

    def __init__(self) -> None:
        self.last = 0
        self._entries = deque[_Entry](maxlen=CAPACITY)
        self._readers = trio.lowlevel.ParkingLot()  # those that wait, in the order of their arrival
        self._is_waking = False  # a reader has been woken, but has not run yet

    def append(self, event: Event) -> None:
        """Append an event."""
        self.last += 1
        self._entries.append(_Entry(self.last, event))
        if not self._is_waking:
            self._wake_next()

    def find(self, last_seen: str) -> int:
        """Return the position after the last event that a client has seen, or after all events."""
        is_number = last_seen.isascii() and last_seen.isdigit() and len(last_seen) <= _DIGITS
        seen = int(last_seen) if is_number else self.last
        return seen if self.last - len(self._entries) <= seen <= self.last else self.last

    async def read(self, position: int) -> str:
        """Wait for events after a position, and return all of them.

        Args:
            position: The number of the last event that the reader has.

        Returns:
            The events up to number :attr:`last`, as server-sent events.

        Raises:
            TooSlowError: The log has dropped some of them.
        """
        while position == self.last:
            await self._readers.park()
            self._is_waking = False
            if position < self.last:
                self._wake_next()
        dropped = self.last - len(self._entries)
        if position < dropped:
            raise TooSlowError
        return "".join(entry.text for entry in islice(self._entries, position - dropped, None))

    def _wake_next(self) -> None:
        self._is_waking = bool(self._readers.unpark())


class EventStream(StreamingResponse):
    """A response that sends events until the client disconnects, or is too slow.

    Args:
        log: The events.
        last_seen: The number of the last event that the client has seen, as the client wrote it.
        limit: Limits how many clients read.
    """

    def __init__(self, log: EventLog, last_seen: str, limit: ConcurrencyLimit) -> None:
        super().__init__(_Texts(log, log.find(last_seen)), media_type="text/event-stream")
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._limit.acquire():
            await super().__call__(scope, receive, send)


class _Texts:
    """What one client gets, piece by piece.

    This is not a generator, because trio complains about one that is left before its end.
    """

    def __init__(self, log: EventLog, position: int) -> None:
        self._log = log
        self._position = position
        self._has_begun = False

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        if not self._has_begun:
            self._has_begun = True
            return ": hello\n\n"  # shows the client at once that it is connected
        with trio.move_on_after(KEEP_ALIVE):
            try:
                text = await self._log.read(self._position)
            except TooSlowError:
                raise StopAsyncIteration from None
            self._position = self._log.last
            return text
        return ": still here\n\n"
