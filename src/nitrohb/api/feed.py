# SPDX-License-Identifier: Apache-2.0
"""Events as they happen, for any number of readers: one short memory for all of them.

An event costs the server the same, however many read and however slowly: it is appended, and one
reader is called, who calls the next. So no more than one of them wakes up in a pass of the loop. An
event is written down once, for the first who reads it. Each reader has its own place in the memory.
One that falls behind until its place is forgotten is cut off.
"""

import json
from collections import deque
from functools import cached_property
from itertools import islice
from typing import Final

import trio

from ..events import Event

__all__ = ["Feed", "LaggingError"]

MEMORY: Final = 256  # events
_DIGITS: Final = 18  # no number of an event has more; Python refuses to read one of thousands


class LaggingError(Exception):
    """A reader has not read for so long that events would be missing."""


class _Numbered:
    def __init__(self, number: int, event: Event) -> None:
        self._number = number
        self._event = event

    @cached_property
    def text(self) -> str:
        data = json.dumps(self._event.to_json())
        return f"id: {self._number}\nevent: {self._event.name}\ndata: {data}\n\n"


class Feed:
    """The latest events, each with its number, from 1 up."""

    def __init__(self) -> None:
        self._events = deque[_Numbered](maxlen=MEMORY)
        self._waiting = trio.lowlevel.ParkingLot()  # in the order of their places
        self._is_calling = False
        self.last = 0

    def on_event(self, event: Event) -> None:
        """Take an event."""
        self.last += 1
        self._events.append(_Numbered(self.last, event))
        if not self._is_calling:
            self._call_next()

    def place_after(self, last_seen: str) -> int:
        """Where a reader begins: after the last event that it has seen, or with the next one."""
        is_number = last_seen.isascii() and last_seen.isdigit() and len(last_seen) <= _DIGITS
        seen = int(last_seen) if is_number else self.last
        return seen if self.last - len(self._events) <= seen <= self.last else self.last

    async def read(self, place: int) -> str:
        """Wait until there is more than what a reader has, and return all of that.

        Args:
            place: The number of the last event that it has.

        Returns:
            The rest up to number :attr:`last`, as server-sent events.

        Raises:
            LaggingError: Some of it is forgotten already.
        """
        while place == self.last:
            await self._waiting.park()
            self._is_calling = False
            if place < self.last:
                self._call_next()
        forgotten = self.last - len(self._events)
        if place < forgotten:
            raise LaggingError
        return "".join(each.text for each in islice(self._events, place - forgotten, None))

    def _call_next(self) -> None:
        self._is_calling = bool(self._waiting.unpark())
