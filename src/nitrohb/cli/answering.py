# SPDX-License-Identifier: Apache-2.0
"""Answer and report, as the command line says."""

import argparse
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from ..events import Event
from ..listeners import Listener
from ..server import HeartbeatServer, OnEvent, serve_heartbeat
from .hints import Hints
from .manager import Manager
from .printing import Show, printing
from .report import Reporter, to_json, to_text

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
    print_lines: Callable[[str], None], args: argparse.Namespace
) -> AbstractAsyncContextManager[Show]:
    """Print events in the format that is asked for, while the block runs."""
    return printing(print_lines, to_json if args.format == "json" else to_text)


def report_to(show: Callable[[Event], object], hints: Hints, args: argparse.Namespace) -> Reporter:
    """What takes the events: it shows them, unless they are not wanted, and gives hints."""

    def show_and_hint(event: Event) -> None:
        show(event)
        hints(event)

    return Reporter(hints if args.quiet else show_and_hint)


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
