# SPDX-License-Identifier: Apache-2.0
"""Events as lines, printed after what they tell of."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from ..events import Event

__all__ = ["Show", "printing"]


class Show:
    """Takes events, and prints them in order: together what comes in a pass of the event loop.

    So no echo waits for a line about it, and a flood costs one write for many connections: with a
    write for every event, a single CPU let the flood in faster than the server got rid of it.

    Args:
        print_lines: Prints one line or several.
        to_line: Makes a line of an event.
    """

    def __init__(self, print_lines: Callable[[str], None], to_line: Callable[[Event], str]) -> None:
        self._print_lines = print_lines
        self._to_line = to_line
        self._events: list[Event] = []
        self._idle = trio.lowlevel.ParkingLot()

    def __call__(self, event: Event) -> None:
        """Take an event, to be printed soon."""
        self._events.append(event)
        self._idle.unpark()

    def print_all(self) -> None:
        """Print what has come so far, now."""
        if self._events:
            lines = "\n".join(map(self._to_line, self._events))
            self._events.clear()
            self._print_lines(lines)

    async def print_for_ever(self) -> None:
        """Print what comes, as it comes."""
        while True:
            self.print_all()
            await self._idle.park()


@asynccontextmanager
async def printing(
    print_lines: Callable[[str], None], to_line: Callable[[Event], str]
) -> AsyncGenerator[Show]:
    """Print events while the block runs. At its end all is printed, whatever ends it.

    Args:
        print_lines: Prints one line or several.
        to_line: Makes a line of an event.
    """
    show = Show(print_lines, to_line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show.print_for_ever)
        try:
            yield show
        finally:
            nursery.cancel_scope.cancel()
            show.print_all()
