# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run`` after the load of trio: a command, and the heartbeats of its enclaves.

::

    Supervisor.run()
    └── nursery
        ├── _serve()            listens and answers; ends the command when the time is up
        ├── GuestConsole.run()  reads the guest console, with --console
        └── Process.run()       in the parent task of the nursery: all ends when it returns

A command that exits with status 0 might have started a VMM in the background, so nitrohb still
waits for its heartbeat. After any other status, nitrohb ends.
"""

import errno
import math
import os
import shlex
import signal
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ..addresses import Address, HybridAddress, UnixAddress
from ..errors import AddressError
from ..events import Event, Heartbeat
from ..handle import HeartbeatServer
from ..server import OnEvent
from ..sockets import activation, unixfile
from ..sockets.listener import Listener
from . import exit_codes, notify
from .answer import Warner, notify_manager, serve_listeners, up_to_level
from .output import INFO, WARNING, Output, printable
from .printer import Printer, draining, printing
from .process import Process, why_not_started
from .report import Summary, explain_end, explain_timeout
from .settings import RunSettings
from .signals import Signals

if TYPE_CHECKING:
    from .console import GuestConsole

_LOOK: Final = "Look at the output of the command, and at the console of the guest (--console)."
_WITHOUT_NITROHB: Final = "Run nitro-cli without nitrohb: it has its own listener on this port."


class Supervisor:
    """One run of a command. It closes the listeners."""

    def __init__(
        self, settings: RunSettings, listeners: Sequence[Listener], output: Output
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._console = _open_console(settings, output)
        self._environment = environment([listener.address for listener in listeners])
        self._output = output
        self._warn = partial(output.print_err, level=WARNING)
        self._process = Process(settings.kill_after, self._warn)
        self._summary = Summary()
        self._time_limit = trio.CancelScope()
        self._has_timed_out = False
        self._all_booted = trio.Event()

    def on_signal(self, number: int) -> None:
        """Pass a signal on to the command. SIGTERM also ends it, and the time limit."""
        if number == signal.SIGTERM:
            self._time_limit.deadline = math.inf
            self._process.end()
        else:
            self._process.send_signal(number)

    async def run(self, signals: Signals) -> int:
        """Answer heartbeats, start the command, wait for its end; return the exit code."""
        settings, output = self._settings.answer, self._output
        notifier = notify.find_notifier(self._warn)
        async with draining(output), printing(output) as printer:
            observers: list[OnEvent] = [
                up_to_level(settings.event_level, printer.on_event),
                Warner(self._warn, settings.allow_cids).on_event,
                self._summary.on_event,
            ]
            # For a service manager, the service has started when the enclaves have booted.
            async with notify_manager(notifier, self._summary, self._have_all_booted, observers):
                observers.append(self._on_event)
                if self._console is not None:
                    observers.append(self._console.on_event)
                await self._run(observers, printer)
        return self._conclude(signals.signal)

    async def _run(self, observers: Sequence[OnEvent], printer: Printer) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._serve, observers, printer)
            printer.flush()  # before the command can print anything
            if self._console is not None:
                nursery.start_soon(self._console.run)
            await self._process.run(
                self._settings.argv, self._environment, self._wait_for_heartbeats
            )
            await self._answer_last()
            if self._console is not None and self._is_early():
                await self._console.wait_attempt()
            nursery.cancel_scope.cancel()

    async def _wait_for_heartbeats(self) -> None:
        """Wait for a heartbeat on every address: launchers can start a VMM and exit."""
        await self._answer_last()
        if self._have_all_booted():
            return
        limit = "" if self._settings.answer.timeout < math.inf else ", without a time limit"
        awaited = self._summary.awaited()
        text = f"nitrohb: the command ended with status 0; waiting for {awaited}{limit}"
        self._output.print_err(text, level=INFO)
        await self._all_booted.wait()

    async def _answer_last(self) -> None:
        """Answer the last heartbeat, and read the last output of the guest."""
        # The event loop needs one pass to notice a connection, and the listener task another.
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()

    async def _serve(
        self,
        observers: Sequence[OnEvent],
        printer: Printer,
        task_status: trio.TaskStatus[HeartbeatServer],
    ) -> None:
        timeout = self._settings.answer.timeout
        self._time_limit.deadline = trio.current_time() + timeout
        with self._time_limit:
            await serve_listeners(
                self._listeners, self._settings.answer, observers, task_status=task_status
            )
        if self._time_limit.cancelled_caught:
            # The last heartbeat can arrive at the same moment as the end of the time.
            if self._have_all_booted() and not self._settings.answer.keep:
                return
            self._has_timed_out = True
            printer.flush()
            explain_timeout(self._summary, timeout, self._output)
            self._explain_console()
            self._process.end()

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Heartbeat) and self._have_all_booted():
            self._time_limit.deadline = math.inf
            self._all_booted.set()

    def _have_all_booted(self) -> bool:
        return self._summary.have_all_booted(len(self._listeners))

    def _conclude(self, number: int | None) -> int:
        """Print why the run failed, if it did, and return the exit code."""
        process = self._process
        if process.start_error is not None:
            return self._explain_start_error(process.start_error)
        if self._has_timed_out:
            return exit_codes.TIMED_OUT
        if process.status is None:  # the signal arrived before the command was started
            return 128 + (number or 0)
        # After a signal, the command might have ended because of it.
        if self._is_early() and number is None:
            # It can be behind sudo, or in the command line of a shell.
            is_nitro_cli = any("nitro-cli" in word for word in self._settings.argv)
            remedy = _WITHOUT_NITROHB if is_nitro_cli else _LOOK
            explain_end(self._summary, process.status, remedy, self._output)
            self._explain_console()
            return exit_codes.TOO_EARLY
        return process.status

    def _explain_console(self) -> None:
        if self._console is not None:
            self._console.explain()

    def _is_early(self) -> bool:
        """Whether the command ended by itself before a heartbeat."""
        may_end = self._settings.answer.keep or self._process.is_ending
        return not (may_end or self._have_all_booted())

    def _explain_start_error(self, start_error: OSError) -> int:
        command = self._settings.argv[0]
        shown = printable(shlex.quote(command))
        why = why_not_started(command, start_error)
        self._output.print_err(f"nitrohb: cannot start {shown}: {why}")
        return exit_codes.NOT_FOUND if start_error.errno == errno.ENOENT else exit_codes.NOT_STARTED


def _open_console(settings: RunSettings, output: Output) -> "GuestConsole | None":
    if settings.console is None:
        return None
    from .console import GuestConsole  # loads anyio, which nothing else here needs

    return GuestConsole(settings.console, settings, output)


def environment(addresses: Sequence[Address]) -> dict[str, str]:
    """The environment of the command: that of nitrohb, and the listen addresses in NITROHB_LISTEN.

    There is one address per line, because a path can contain a space, but no line break. The
    variables that a service manager set for nitrohb only are omitted.
    """
    ours = {*activation.VARIABLES, *notify.VARIABLES}
    others = {name: value for name, value in os.environ.items() if name not in ours}
    return {**others, "NITROHB_LISTEN": "\n".join(str(_absolute(each)) for each in addresses)}


def _absolute(address: Address) -> Address:
    """An address for a process in another directory; unchanged if that would be too long."""
    with suppress(AddressError, OSError):
        match address:
            case UnixAddress(path):
                return UnixAddress(unixfile.absolute(path))
            case HybridAddress(path, port):
                return HybridAddress(unixfile.absolute(path), port)
            case _:
                pass
    return address
