# SPDX-License-Identifier: Apache-2.0
"""Answer and report, as the command line says."""

import argparse
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from ..events import Event
from ..server import HeartbeatServer, OnEvent, serve_heartbeat
from ..sockets.listener import Listener
from .hints import Hints
from .journal import prioritized
from .levels import NONE, NUMBERS
from .manager import Manager
from .printing import Show, printing
from .report import Reporter, level_of, to_json, to_text

__all__ = ["answer", "informing", "printing_events", "report_to"]


async def answer(
    listeners: Sequence[Listener],
    args: argparse.Namespace,
    on_event: OnEvent | None,
    *,
    task_status: trio.TaskStatus[HeartbeatServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve heartbeats on some listeners, whose owner this is from now on."""
    await serve_heartbeat(
        *listeners,
        once=not args.keep,
        allow_cids=args.allow_cids,
        any_byte=args.any_byte,
        handshake_timeout=args.handshake_timeout,
        max_pending=args.max_pending,
        on_event=on_event,
        task_status=task_status,
    )


def printing_events(
    print_lines: Callable[[str, int | None], None], args: argparse.Namespace, *, to_journal: bool
) -> AbstractAsyncContextManager[Show]:
    """Print events in the format that is asked for, while the block runs.

    Args:
        print_lines: Prints lines that have their priorities already.
        args: The command line.
        to_journal: Whether the lines are to have priorities, for the systemd journal.
    """
    to_line = to_json if args.format == "json" else to_text

    def to_entry(event: Event) -> str:
        return prioritized(to_line(event), level_of(event))

    return printing(lambda lines: print_lines(lines, None), to_entry if to_journal else to_line)


def report_to(show: Callable[[Event], object], hints: Hints, args: argparse.Namespace) -> Reporter:
    """What takes the events: it shows those that are wanted, and gives hints."""
    least = NONE if args.quiet else NUMBERS[args.log_level]

    def show_and_hint(event: Event) -> None:
        if level_of(event) <= least:
            show(event)
        hints(event)

    return Reporter(show_and_hint)


@asynccontextmanager
async def informing(
    manager: Manager | None, reporter: Reporter, is_ready: Callable[[], bool]
) -> AsyncGenerator[OnEvent]:
    """Keep the service manager informed, if there is one, while the block runs.

    Args:
        manager: It.
        reporter: Takes the events, and knows how it stands.
        is_ready: Whether the service counts as started.

    Yields:
        What takes the events for both.
    """
    if manager is None:
        yield reporter
        return

    def on_event(event: Event) -> None:
        reporter(event)
        manager(event)

    async with manager.informed(reporter.status, is_ready):
        yield on_event
