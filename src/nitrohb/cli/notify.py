# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3): tell the service manager, such as systemd, how the service is.

``NOTIFY_SOCKET`` names a datagram socket. A datagram contains assignments, one per line:
``READY=1``, ``STATUS=...``, ``STOPPING=1``. ``WATCHDOG_USEC`` asks for ``WATCHDOG=1`` at least that
often, from the process ``WATCHDOG_PID`` if that is set (sd_watchdog_enabled(3)). The libraries for
this are abandoned, need a C compiler, or block. The manual page invites reimplementation.

Each datagram says everything that is so now. If one is lost, the next one repeats it. A manager
that does not read never delays anything.
"""

import math
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from ..addresses import parse_number
from ..errors import AddressError, UsageError
from ..events import Done, Event, Heartbeat, Listening, Unlistened

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""The variables that are meant for one process, and not for those that it starts."""

_PAUSE: Final = 0.1  # seconds between two datagrams, however many heartbeats arrive
_RETRY: Final = 1.0  # seconds

# systemd ignores a datagram of more than 4096 bytes (NOTIFY_BUFFER_MAX of its manager.c).
_STATUS_MAX: Final = 2048

_MAX: Final = 2**63 - 1


class Notifier:
    """Notifies a service manager."""

    def __init__(self, name: str | bytes, interval: float, warn: Callable[[str], object]) -> None:
        self._name = name  # of its socket, as for bind(2)
        self._interval = interval  # seconds between two keep-alive pings; infinite for none
        self._warn = warn
        self._has_warned = False
        self._news = trio.Event()
        self._socket: socket.socket | None = None

    def on_event(self, event: Event) -> None:
        """Take an event. The summary, which makes the status, must have taken it before."""
        if isinstance(event, Listening | Heartbeat | Done | Unlistened):
            self.wake()

    def wake(self) -> None:
        """Have the manager notified soon."""
        self._news.set()

    @asynccontextmanager
    async def notifying(
        self, status: Callable[[], str], is_ready: Callable[[], bool]
    ) -> AsyncGenerator[None]:
        """Notify while the block runs, and say at its end that the service stops."""

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
                    # To systemd a service that stops before it is ready has failed.
                    self._send(state())
                    self._send("STOPPING=1")
        finally:
            if self._socket is not None:
                self._socket.close()

    async def _notify_forever(self, state: Callable[[], str]) -> None:
        # In the event loop, so that there is no keep-alive ping if the loop hangs.
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
        """Send a datagram if the manager takes it now."""
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
                f"nitrohb: cannot notify the service manager: {error.strerror or error}"
                f" (NOTIFY_SOCKET is {name!r})"
            )


def find_notifier(warn: Callable[[str], object]) -> Notifier | None:
    """The notifier of the service manager that the environment names, if there is one.

    Args:
        warn: Prints a line for a person: that the service manager cannot be notified.

    Raises:
        UsageError: A variable of the environment makes no sense.
    """
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name:
        return None
    if name[0] not in "/@" or len(name) == 1:
        raise UsageError(
            f"NOTIFY_SOCKET of the environment is {name!r}: expected an absolute path, or @ and the"
            " name of an abstract socket"
        )
    sockaddr = b"\0" + os.fsencode(name[1:]) if name[0] == "@" else name
    return Notifier(sockaddr, _interval(), warn)


def _interval() -> float:
    """Half of the watchdog's time-out in seconds, as sd_watchdog_enabled(3) advises."""
    if not os.environ.get("WATCHDOG_USEC"):
        return math.inf
    microseconds = _number("WATCHDOG_USEC")
    is_ours = not os.environ.get("WATCHDOG_PID") or _number("WATCHDOG_PID") == os.getpid()
    return microseconds / 2e6 if is_ours else math.inf


def _number(variable: str) -> int:
    text = os.environ[variable]
    try:
        number = parse_number("number", text, _MAX)
    except AddressError:
        number = 0
    if number == 0:
        raise UsageError(
            f"{variable} of the environment is {text!r}: expected a number from 1 up, as a service"
            " manager sets it"
        )
    return number


def _cut(status: str) -> str:
    """A status in UTF-8 that fits, however long its addresses are."""
    text = os.fsencode(status).decode("utf-8", "replace")
    data = text.encode()
    return text if len(data) <= _STATUS_MAX else f"{data[:_STATUS_MAX].decode(errors='ignore')}..."
