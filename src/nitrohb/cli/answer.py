# SPDX-License-Identifier: Apache-2.0
"""Answer heartbeats and report them: ``serve`` and ``run`` do this after they have loaded trio."""

import math
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from ..events import Connected, Event, Lost, Rejected, RejectReason
from ..handle import HeartbeatServer
from ..remedies import CID_ADVICE, LOOPBACK_CID
from ..server import OnEvent, serve_heartbeat
from ..sockets.listener import Listener
from ..sockets.opening import NOWHERE, ListenTarget
from . import exit_codes
from .notify import Notifier, find_notifier
from .output import ERROR, WARNING, Output
from .printer import draining, printing, status_line
from .report import Summary, explain_timeout, level_of
from .settings import AnswerSettings

if TYPE_CHECKING:
    from .serve_api import ApiFactory


async def answer_and_report(
    settings: AnswerSettings,
    listeners: Sequence[Listener],
    api: "ApiFactory | None",
    output: Output,
) -> int:
    """Answer and report heartbeats; return the exit code."""
    warn = partial(output.print_err, level=WARNING)
    notifier, summary = find_notifier(warn), Summary()
    warner = Warner(warn, settings.allow_cids)
    async with draining(output), printing(output) as printer:
        # Without an observer, no events are created.
        observers: list[OnEvent] = []
        if settings.event_level > ERROR:  # no event has this level
            observers.append(up_to_level(settings.event_level, printer.on_event))
        if notifier or output.is_terminal or settings.timeout < math.inf:
            observers.append(summary.on_event)
        if settings.allow_cids is not None or api is not None or observers:
            observers.append(warner.on_event)
        all_listen = partial(summary.all_listen, len(listeners))
        with trio.move_on_after(settings.timeout) as deadline:
            async with (
                status_line(output, summary.awaited),
                notify_manager(notifier, summary, all_listen, observers),
            ):
                if api is None:
                    await serve_listeners(listeners, settings, observers)
                else:
                    async with api() as state:
                        warner.awaits_cid = state.awaits_cid
                        # The state gets the server as its task_status.
                        await serve_listeners(
                            listeners, settings, [state.on_event, *observers], task_status=state
                        )
    # The last heartbeat can arrive at the same moment as the end of the time.
    is_done = not settings.keep and summary.have_all_booted(len(listeners))
    if is_done or not deadline.cancelled_caught:
        return exit_codes.DONE
    explain_timeout(summary, settings.timeout, output)
    return exit_codes.TIMED_OUT


async def serve_listeners(
    listeners: Sequence[Listener],
    settings: AnswerSettings,
    observers: Sequence[OnEvent],
    *,
    task_status: trio.TaskStatus[HeartbeatServer] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer heartbeats on listeners. This call closes them."""

    def on_event(event: Event) -> None:
        for observe in observers:
            observe(event)

    listen: Sequence[ListenTarget] = listeners or [NOWHERE]
    await serve_heartbeat(
        *listen,
        keep=settings.keep,
        allow_cids=settings.allow_cids,
        allow_uids=settings.allow_uids,
        any_byte=settings.any_byte,
        handshake_timeout=settings.handshake_timeout,
        max_pending=settings.max_pending,
        socket_mode=settings.socket_mode,
        socket_group=settings.socket_group,
        on_event=on_event if observers else None,
        task_status=task_status,
    )


def up_to_level(level: int, observe: OnEvent) -> OnEvent:
    """Return an observer that passes on only the events of a level, or of more serious ones."""

    def on_event(event: Event) -> None:
        if level_of(event) <= level:
            observe(event)

    return on_event


@asynccontextmanager
async def notify_manager(
    notifier: Notifier | None,
    summary: Summary,
    is_ready: Callable[[], bool],
    observers: list[OnEvent],
) -> AsyncGenerator[None]:
    """Notify the service manager, if there is one, while the block runs.

    The notifier comes after the other observers, because its status is that of the summary.
    """
    if notifier is None:
        yield
        return
    async with notifier.notifying(summary.status, is_ready):
        observers.append(notifier.on_event)
        if is_ready():  # a server without an address has no events
            notifier.wake()
        yield


class Warner:
    """Warns on stderr of problems that keep enclaves from being answered.

    Attributes:
        awaits_cid: Whether a client waits for a heartbeat from a CID other than 1 (loopback).
    """

    def __init__(self, warn: Callable[[str], None], allow_cids: Collection[int] | None) -> None:
        self._warn = warn
        allowed = set(allow_cids or ())
        self._cid_1_is_ambiguous = LOOPBACK_CID in allowed and len(allowed) > 1
        self._has_warned = False
        self.awaits_cid: Callable[[], bool] = lambda: False

    def on_event(self, event: Event) -> None:
        """Take an event."""
        match event:
            case Lost() if event.problem is not None:
                self._warn(f"nitrohb: {event.explanation}")
            case Rejected(reason=RejectReason.CID) if event.cid == LOOPBACK_CID:
                self._warn_same_cids(event, "was rejected")
            case Connected() if event.cid == LOOPBACK_CID and self._cid_1_is_ambiguous:
                self._warn_same_cids(event, "was allowed")
            case Connected() if event.cid == LOOPBACK_CID and self.awaits_cid():
                self._warn_same_cids(event, "arrived, but a client waits for another CID")
            case _:
                pass

    def _warn_same_cids(self, event: Event, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            seen = f"a connection from CID {LOOPBACK_CID} on {event.address} {what}"
            self._warn(f"nitrohb: {seen}: {CID_ADVICE}")
