# SPDX-License-Identifier: Apache-2.0
"""Events as they happen, for any number of readers: one short memory for all of them.

An event costs the server the same, however many read and however slowly: it is appended, and its
readers are woken. Each reader has its own place in the memory. One that falls behind until its
place is forgotten is cut off.
"""

import json
from collections import deque
from typing import Final

import trio

from ..events import Event

__all__ = ["Feed", "LaggingError"]

MEMORY: Final = 256  # events


class LaggingError(Exception):
    """A reader has not read for so long that events would be missing."""


class Feed:
    """The latest events, each with its number, from 1 up."""

    def __init__(self) -> None:
        self._events = deque[Event](maxlen=MEMORY)
        self._changed = trio.Event()
        self.last = 0

    def on_event(self, event: Event) -> None:
        """Take an event."""
        self._events.append(event)
        self.last += 1
        if self._changed.statistics().tasks_waiting:
            self._changed.set()
            self._changed = trio.Event()

    def place_after(self, last_seen: str) -> int:
        """Where a reader begins: after the last event that it has seen, or with the next one."""
        seen = int(last_seen) if last_seen.isascii() and last_seen.isdigit() else self.last
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
            await self._changed.wait()
        first = self.last - len(self._events) + 1
        if place + 1 < first:
            raise LaggingError
        numbered = enumerate(self._events, first)
        return "".join(_written(number, event) for number, event in numbered if number > place)


def _written(number: int, event: Event) -> str:
    return f"id: {number}\nevent: {event.name}\ndata: {json.dumps(event.to_json())}\n\n"
