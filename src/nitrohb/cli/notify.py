# SPDX-License-Identifier: Apache-2.0
"""Tell the state of nitrohb to a service manager such as systemd (sd_notify(3)).

``NOTIFY_SOCKET`` names a datagram socket. A datagram contains assignments, one per line:
``READY=1``, ``STATUS=...``, ``STOPPING=1``. ``WATCHDOG_USEC`` asks for ``WATCHDOG=1`` at least that
often, from the process ``WATCHDOG_PID`` if that is set (sd_watchdog_enabled(3)). The libraries for
this are abandoned, need a C compiler, or block. The manual page invites reimplementation.

Each datagram contains the whole state, so a lost one does no harm. Sending never blocks.
"""

import math
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from ..addresses import parse_number
from ..errors import AddressError, UsageError, described
from ..events import Done, Event, Heartbeat, Listening, Unlistened

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""The variables that are for nitrohb only, not for its child processes."""

_PAUSE: Final = 0.1  # seconds between two datagrams, even if many heartbeats arrive
_RETRY: Final = 1.0  # seconds

# systemd ignores a datagram of more than 4096 bytes (NOTIFY_BUFFER_MAX in manager.c).
_STATUS_MAX: Final = 2048

_MAX: Final = 2**63 - 1


class Notifier:
    """Notifies a service manager."""

    def __init__(self, name: str | bytes, interval: float, warn: Callable[[str], object]) -> None:
        self._name = name  # of the socket, as for bind(2)
        self._interval = interval  # seconds between two keep-alive pings; infinite for none
        self._warn = warn
        self._has_warned = False
        self._news = trio.Event()
        self._socket: socket.socket | None = None

    def on_event(self, event: Event) -> None:
        """Take an event. The summary, which makes the status, must get it first."""
        if isinstance(event, Listening | Heartbeat | Done | Unlistened):
            self.wake()

    def wake(self) -> None:
        """Notify the manager soon."""
        self._news.set()

    @asynccontextmanager
    async def notifying(
        self, status: Callable[[], str], is_ready: Callable[[], bool]
    ) -> AsyncGenerator[None]:
        """Notify the manager while the block runs, and at its end that nitrohb stops."""

        def state() -> str:
            ready = "READY=1\n" if is_ready() else ""
            alive = "" if self._interval == math.inf else "WATCHDOG=1\n"
            return f"{ready}{alive}STATUS={_cut(status())}"

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._notify_forever, state)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
                    # For systemd, a service that stops before it is ready has failed.
                    self._send(state())
                    self._send("STOPPING=1")
        finally:
            if self._socket is not None:
                self._socket.close()

    async def _notify_forever(self, state: Callable[[], str]) -> None:
        # This runs in the event loop, so a loop that hangs sends no keep-alive pings.
        if self._interval == math.inf:
            await self._news.wait()
        while True:
            self._news = trio.Event()
            was_sent = self._send(state())
            pause = min(_PAUSE if was_sent else _RETRY, self._interval)
            await trio.sleep(pause)
            if was_sent:
                with trio.move_on_after(self._interval - pause):
                    await self._news.wait()

    def _send(self, message: str) -> bool:
        """Send a datagram, and return whether the manager has room for it."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message.encode(), self._name)
        except BlockingIOError:
            return False
        except OSError as error:
            self._warn_once(error)
            return False
        return True

    def _warn_once(self, error: OSError) -> None:
        if not self._has_warned:
            self._has_warned = True
            name = os.fsdecode(self._name).replace("\0", "@", 1)
            self._warn(
                f"nitrohb: cannot notify the service manager at NOTIFY_SOCKET={name!r}:"
                f" {described(error)}\nUnset it, or start nitrohb from the service manager."
            )


def find_notifier(warn: Callable[[str], object]) -> Notifier | None:
    """Return a notifier for the service manager that the environment names, or None.

    Args:
        warn: Prints a warning if the service manager cannot be notified.

    Raises:
        UsageError: A variable of the environment makes no sense.
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return None
    if name[0] not in "/@" or len(name) == 1:
        raise UsageError(
            f"NOTIFY_SOCKET of the environment is {name!r}: this names no socket\n"
            "Set it to an absolute path, or to @ and the name of an abstract socket."
        )
    sockaddr = b"\0" + os.fsencode(name[1:]) if name[0] == "@" else name
    return Notifier(sockaddr, _interval(), warn)


def _interval() -> float:
    """Half of the watchdog time-out in seconds, as sd_watchdog_enabled(3) advises."""
    if not os.environ.get("WATCHDOG_USEC"):
        return math.inf
    microseconds = _number("WATCHDOG_USEC")
    is_ours = not os.environ.get("WATCHDOG_PID") or _number("WATCHDOG_PID") == os.getpid()
    return microseconds / 2e6 if is_ours else math.inf


def _number(variable: str) -> int:
    text = os.environ[variable]
    try:
        return parse_number("number", text, _MAX, 1)
    except AddressError as error:
        raise UsageError(
            f"{variable} of the environment: {error}\n"
            "Unset it, or let the service manager set it (WatchdogSec=)."
        ) from None


def _cut(status: str) -> str:
    """The status in UTF-8, cut if its addresses are too long for a datagram."""
    text = os.fsencode(status).decode("utf-8", "replace")
    data = text.encode()
    return text if len(data) <= _STATUS_MAX else f"{data[:_STATUS_MAX].decode(errors='ignore')}..."
