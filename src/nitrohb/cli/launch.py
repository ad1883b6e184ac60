# SPDX-License-Identifier: Apache-2.0
"""A command and its heartbeats: what comes first, and what becomes of the other.

::

    Launch.run()
    └── nursery
        ├── Launch._attend()     listens, answers; when the time is up, tells the command to end
        └── Child.run()          in the nursery's own task: its end is the end of it all
"""

import argparse
import errno
import math
import shlex
import signal
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ..events import Done, Event, Heartbeat
from ..remedies import start_advice
from ..server import HeartbeatServer, OnEvent
from ..sockets.listener import Listener
from . import exits
from .answering import answer, informing, printing_events, report_to
from .child import Child
from .console import Console
from .environment import environment
from .explaining import explain_end, explain_timeout
from .hints import Hints
from .levels import WARNING
from .manager import find_manager
from .quoting import printable
from .stop import Stop

if TYPE_CHECKING:
    from .printing import Show
    from .report import Reporter

__all__ = ["Launch"]

# How often the event loop must look around to see who had spoken by some moment: once to learn of
# it, once to let the listener tasks take it.
_LOOKS: Final = 2


class Launch:
    """One start of a command whose heartbeat is awaited.

    Args:
        listeners: Where to await it; they are this object's from now on.
        timeout: Seconds until each address must have had its heartbeat.
        args: The command line.
        console: Where to print.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        timeout: float,
        args: argparse.Namespace,
        console: Console,
    ) -> None:
        self._listeners = listeners
        self._environment = environment(listeners)  # now, as a listener may soon be closed
        self._timeout = timeout
        self._args = args
        self._console = console
        warn = partial(console.say, level=WARNING)
        self._manager = find_manager(warn)
        self._child = Child(args.kill_after, warn)
        self._clock = trio.CancelScope()
        self._timed_out = False
        self._closing = 0  # addresses that have answered and are about to close
        self._show: Show
        self._reporter: Reporter
        self._report: OnEvent

    def take(self, number: int) -> None:
        """Pass a signal on to the command; SIGTERM ends it, and is no matter of time any more."""
        if number == signal.SIGTERM:
            self._clock.deadline = math.inf
            self._child.end()
        else:
            self._child.pass_on(number)

    async def run(self, stop: Stop) -> int:
        """Listen, start the command, wait for its end.

        Args:
            stop: Knows whether there was a signal.

        Returns:
            The exit code.
        """
        with self._console.stderr() as stderr:
            hints = Hints(partial(self._console.say, level=WARNING), self._args.allow_cids)
            async with printing_events(
                self._console.say, self._args, to_journal=self._console.err_is_journal
            ) as self._show:
                self._reporter = report_to(self._show, hints, self._args)
                # To a service manager the service has started when the enclaves have.
                async with informing(
                    self._manager, self._reporter, self._have_all_booted
                ) as self._report:
                    await self._run(stderr)
        return self._conclude(stop.signal)

    async def _run(self, stderr: int | None) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._attend)
            self._show.print_all()  # before the command can print anything
            await self._child.run(self._args.argv, self._environment, stderr)
            await self._look_once_more()
            nursery.cancel_scope.cancel()

    async def _look_once_more(self) -> None:
        """Take what the command has sent just before its end, and let its address close."""
        for _ in range(_LOOKS):
            await trio.lowlevel.checkpoint()
        while self._closing:
            await trio.lowlevel.checkpoint()

    async def _attend(self, task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        self._clock.deadline = trio.current_time() + self._timeout
        with self._clock:
            await answer(self._listeners, self._args, self._on_event, task_status=task_status)
        if self._clock.cancelled_caught:
            self._timed_out = True
            self._show.print_all()
            explain_timeout(self._reporter, self._timeout, self._console)
            self._child.end()

    def _on_event(self, event: Event) -> None:
        self._report(event)
        if not self._args.keep:
            self._closing += isinstance(event, Heartbeat) - isinstance(event, Done)
        if isinstance(event, Heartbeat) and self._have_all_booted():
            self._clock.deadline = math.inf

    def _have_all_booted(self) -> bool:
        return not list(self._reporter.unheard())

    def _conclude(self, number: int | None) -> int:
        """The exit code, and what there is to say about it.

        Args:
            number: The first signal that came, if one did.
        """
        if self._child.refusal is not None:
            return self._explain_refusal(self._child.refusal)
        if self._timed_out:
            return exits.TIMED_OUT
        if self._child.status is None:  # the signal was there before the command
            return 128 + (number or 0)
        # Any other status than 0 may be its answer to the signal.
        if self._is_early() and (number is None or self._child.status == 0):
            explain_end(self._reporter, self._child.status, self._console)
            return exits.TOO_EARLY
        return self._child.status

    def _is_early(self) -> bool:
        """Whether the command has ended before its heartbeat, and was not told to."""
        awaited = not self._args.keep and bool(list(self._reporter.unheard()))
        return awaited and not self._child.is_ending

    def _explain_refusal(self, why: OSError) -> int:
        command = self._args.argv[0]
        reason, remedy = start_advice(command, why.errno or 0)
        shown = printable(shlex.quote(command))
        self._console.say(f"nitrohb: cannot start {shown}: {reason}\n{remedy}")
        return exits.NOT_FOUND if why.errno == errno.ENOENT else exits.NOT_STARTED
