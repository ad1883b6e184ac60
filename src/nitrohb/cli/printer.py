# SPDX-License-Identifier: Apache-2.0
"""Print events soon after they happen, and a status line while nitrohb waits."""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from ..events import Event
from .output import ERROR, WARNING, Output, Stream, prioritized
from .report import level_of, to_json, to_text


class Printer:
    """Prints events: all of one pass of the event loop together, after the echoes."""

    def __init__(self, print_all: Callable[[str], None], to_line: Callable[[Event], str]) -> None:
        self._print_all = print_all
        self._to_line = to_line
        self._events: list[Event] = []
        self._waiting = trio.lowlevel.ParkingLot()

    def on_event(self, event: Event) -> None:
        """Take an event."""
        self._events.append(event)
        self._waiting.unpark()

    def flush(self) -> None:
        """Print the events that have not been printed yet."""
        if self._events:
            lines = "\n".join(map(self._to_line, self._events))
            self._events.clear()
            self._print_all(lines)

    async def run(self) -> None:
        """Print until cancelled."""
        while True:
            self.flush()
            await self._waiting.park()


@asynccontextmanager
async def printing(output: Output) -> AsyncGenerator[Printer]:
    """Print events while the block runs, and the last ones when it ends or fails."""
    to_line = to_json if output.is_json else to_text

    def to_entry(event: Event) -> str:
        return prioritized(to_line(event), level_of(event))

    printer = Printer(output.write_events, to_entry if output.events.is_journal else to_line)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(printer.run)
        try:
            yield printer
        finally:
            nursery.cancel_scope.cancel()
            printer.flush()


class _LogHandler(logging.Handler):
    """Prints log records without blocking."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        level = ERROR if record.levelno >= logging.ERROR else WARNING
        self._output.print_err(self.format(record), level)


@asynccontextmanager
async def draining(output: Output) -> AsyncGenerator[None]:
    """While the block runs, write queued lines when readers go on, and print log records."""
    logging.basicConfig(format="%(message)s", handlers=[_LogHandler(output)])
    async with trio.open_nursery() as nursery:
        for stream in output.streams:
            stream.open_nonblocking()
            nursery.start_soon(_drain, stream, output)
        try:
            yield
        finally:
            nursery.cancel_scope.cancel()


async def _drain(stream: Stream, output: Output) -> None:
    while True:
        queued = trio.Event()
        stream.on_queued = queued.set
        if not stream.has_queued:
            await queued.wait()
        await trio.lowlevel.wait_writable(stream.fd)
        output.flush(stream)


@asynccontextmanager
async def status_line(output: Output, awaited: Callable[[], str]) -> AsyncGenerator[None]:
    """While the block runs, show on a terminal what nitrohb waits for, and for how long."""
    async with trio.open_nursery() as nursery:
        if output.is_terminal:
            nursery.start_soon(_show_status, output, awaited)
        yield
        nursery.cancel_scope.cancel()


async def _show_status(output: Output, awaited: Callable[[], str]) -> None:
    began = trio.current_time()
    while True:
        seconds = round(trio.current_time() - began)
        output.status(f"{seconds // 60}:{seconds % 60:02} waiting for {awaited()}")
        await trio.sleep(1)
