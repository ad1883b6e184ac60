# SPDX-License-Identifier: Apache-2.0
"""Events on stdout, printed after what they tell of."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from ..events import Event

__all__ = ["printing"]


@asynccontextmanager
async def printing(
    print_lines: Callable[[str], None], to_line: Callable[[Event], str]
) -> AsyncGenerator[Callable[[Event], None]]:
    """Print events while the block runs, in order: together what comes in a pass of the event loop.

    So no echo waits for a line about it, and a flood costs one write for many connections: with a
    write for every event, a single CPU let the flood in faster than the server got rid of it. At
    the end of the block all is printed, whatever ends it.

    Args:
        print_lines: Prints one line or several.
        to_line: Makes a line of an event.
    """
    events: list[Event] = []
    idle = trio.lowlevel.ParkingLot()

    def print_all() -> None:
        if events:
            lines = "\n".join(map(to_line, events))
            events.clear()
            print_lines(lines)

    async def print_for_ever() -> None:
        while True:
            print_all()
            await idle.park()

    def show(event: Event) -> None:
        events.append(event)
        idle.unpark()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(print_for_ever)
        try:
            yield show
        finally:
            nursery.cancel_scope.cancel()
            print_all()
