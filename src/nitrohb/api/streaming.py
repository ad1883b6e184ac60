# SPDX-License-Identifier: Apache-2.0
"""``GET /events``: a log of the latest events, and the response that streams them.

The number and the speed of readers do not change what an event costs the server. The log appends
the event and wakes one reader, which wakes the next one. So a pass of the event loop wakes at most
one reader. An event is serialized once, when the first reader needs it.
"""

import json
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, aclosing
from functools import cached_property
from itertools import islice
from typing import Final

import trio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..events import Event

CAPACITY: Final = 256  # events
PING_INTERVAL: Final = 15.0  # seconds without an event
_DIGITS: Final = 18  # of the number of an event, at most; int() raises an error for thousands


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
        self._readers = trio.lowlevel.ParkingLot()  # waiting, in order of arrival
        self._is_waking = False  # a reader has been woken, but has not run yet

    def append(self, event: Event) -> None:
        """Append an event."""
        self.last += 1
        self._entries.append(_Entry(self.last, event))
        if not self._is_waking:
            self._wake_next()

    async def follow(self, last_seen: str) -> AsyncGenerator[str]:
        """Yield events as server-sent events, until the log has dropped the next one.

        Args:
            last_seen: The header ``Last-Event-ID``: the number of the last event that the client
                has seen. Later events that are still in the log come first.
        """
        position, text = self._find(last_seen), ": hello\n\n"  # tells a client that it is connected
        while text:
            yield text
            text = ": still here\n\n"
            with trio.move_on_after(PING_INTERVAL):
                text = await self.read(position)
                position = self.last

    async def read(self, position: int) -> str:
        """Wait for events after a position, and return all of them.

        Args:
            position: The number of the last event that the reader has.

        Returns:
            The events up to number ``last``, or an empty text if the log has dropped one of them.
        """
        while position == self.last:
            await self._readers.park()
            self._is_waking = False
            if position < self.last:
                self._wake_next()
        skipped = position - self.last + len(self._entries)
        if skipped < 0:
            return ""
        return "".join(entry.text for entry in islice(self._entries, skipped, None))

    def _find(self, last_seen: str) -> int:
        """Return the number after which the events for a client begin."""
        is_number = last_seen.isascii() and last_seen.isdigit() and len(last_seen) <= _DIGITS
        seen = int(last_seen) if is_number else self.last
        dropped = self.last - len(self._entries)
        return max(seen, dropped) if seen <= self.last else self.last

    def _wake_next(self) -> None:
        self._is_waking = bool(self._readers.unpark())


class EventStream(StreamingResponse):
    """A response that sends events until the client disconnects, or is too slow.

    Args:
        texts: The events, from ``EventLog.follow()``.
        place: Is entered while the client reads.
    """

    def __init__(self, texts: AsyncGenerator[str], place: AbstractContextManager[None]) -> None:
        super().__init__(texts, media_type="text/event-stream")
        self._texts = texts
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._place:
            async with aclosing(self._texts):
                await super().__call__(scope, receive, send)
