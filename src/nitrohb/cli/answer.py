# SPDX-License-Identifier: Apache-2.0
"""Answer heartbeats and report them: what ``serve`` and ``run`` do once trio is loaded."""

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
    """Answer and report; return the exit code."""
    warn = partial(output.print_err, level=WARNING)
    notifier, summary = find_notifier(warn), Summary()
    warner = Warner(warn, settings.allow_cids)
    async with draining(output), printing(output) as printer:
        # Connections are reported only if something uses the events.
        observers: list[OnEvent] = []
        if settings.event_level > ERROR:  # no event is an error
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
                        # task_status: the state gets the server when that has started.
                        await serve_listeners(
                            listeners, settings, [state.on_event, *observers], task_status=state
                        )
    # The time can be up in the very moment of the last heartbeat.
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
    """Serve heartbeats on some listeners, which belong to this call from now on."""

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
    """Pass on the events that are to be printed."""

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

    The notifier takes the events after the other observers, of which the summary is one.
    """
    if notifier is None:
        yield
        return
    async with notifier.notifying(summary.status, is_ready):
        observers.append(notifier.on_event)
        if is_ready():  # a server without an address has no event
            notifier.wake()
        yield


class Warner:
    """Takes events, and warns on stderr of what keeps enclaves from being answered.

    Attributes:
        awaits_cid: Whether somebody waits for a heartbeat of another CID than the loopback's.
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
                self._warn_same_cids(event, "is refused")
            case Connected() if event.cid == LOOPBACK_CID and self._cid_1_is_ambiguous:
                self._warn_same_cids(event, "is allowed: it can be that of any VM")
            case Connected() if event.cid == LOOPBACK_CID and self.awaits_cid():
                self._warn_same_cids(event, "has come while another CID is awaited")
            case _:
                pass

    def _warn_same_cids(self, event: Event, what: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            seen = f"a connection from CID {LOOPBACK_CID} on {event.address} {what}"
            self._warn(f"nitrohb: {seen}: {CID_ADVICE}")
