# SPDX-License-Identifier: Apache-2.0
"""The service manager, say systemd: what it is told of us, by the protocol of sd_notify(3).

``NOTIFY_SOCKET`` names a datagram socket, and a datagram has assignments, one a line: ``READY=1``,
``STATUS=...``, ``STOPPING=1``. ``WATCHDOG_USEC`` asks for ``WATCHDOG=1`` at least that often, from
the process ``WATCHDOG_PID`` if that is set (sd_watchdog_enabled(3)). The manual page promises that
this is stable, and invites to write it anew. That is done here because the libraries for it are
abandoned, need a C compiler, or block; and none keeps what could not be sent.

A manager that does not listen never holds anybody up: what it could not be told it is told later,
with only the newest value of each.
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
from ..events import Done, Event, Heartbeat, Listening

__all__ = ["VARIABLES", "Manager", "find_manager"]

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""What is meant for one process, and not for those that it starts."""

_PAUSE: Final = 0.1  # seconds between two datagrams, however many heartbeats come

_RETRY: Final = 1.0  # seconds

# systemd ignores a datagram of more than 4096 bytes (NOTIFY_BUFFER_MAX of its manager.c).
_STATUS_MAX: Final = 2048

_MAX: Final = 2**63 - 1


class Manager:
    """A service manager that wants to hear of us.

    Args:
        name: Its socket's address, as bind(2) has it.
        interval: Seconds between two signs of life; None if it wants none.
        say: Takes a line for a person.
    """

    def __init__(
        self, name: str | bytes, interval: float | None, say: Callable[[str], object]
    ) -> None:
        self._name = name
        self._interval = interval
        self._haste = math.inf if interval is None else interval / 2
        self._say = say
        self._unsent: dict[str, str] = {}
        self._has_news = False
        self._was_ready = False
        self._has_complained = False
        self._news = trio.Event()
        self._socket: socket.socket | None = None
        self._status: Callable[[], str]
        self._is_ready: Callable[[], bool]

    def __call__(self, event: Event) -> None:
        """Take an event, after whoever makes the status of it."""
        if isinstance(event, Listening | Heartbeat | Done):
            self._has_news = True
            self._news.set()

    @asynccontextmanager
    async def informed(
        self, status: Callable[[], str], is_ready: Callable[[], bool]
    ) -> AsyncGenerator[None]:
        """Keep it informed while the block runs, and say at the end that we stop.

        Args:
            status: What there is to know, in a line for people.
            is_ready: Whether the service counts as started.
        """
        self._status, self._is_ready = status, is_ready
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_news)
                if self._interval is not None:
                    nursery.start_soon(self._live, self._interval)
                try:
                    yield
                finally:
                    nursery.cancel_scope.cancel()
                    self._say_goodbye()
        finally:
            if self._socket is not None:
                self._socket.close()

    async def _live(self, interval: float) -> None:
        """Give signs of life from the event loop, so that one that hangs gives none."""
        while True:
            self._unsent["WATCHDOG"] = "1"
            self._news.set()
            await trio.sleep(interval)

    async def _tell_news(self) -> None:
        while True:
            await self._news.wait()
            self._take_news()
            if sent := self._send():
                self._news = trio.Event()
            await trio.sleep(min(_PAUSE if sent else _RETRY, self._haste))

    def _say_goodbye(self) -> None:
        self._take_news()  # to end without having been ready would be to have failed
        self._send()
        self._unsent["STOPPING"] = "1"
        self._send()

    def _take_news(self) -> None:
        if not self._has_news:
            return
        self._has_news = False
        if not self._was_ready and self._is_ready():
            self._was_ready = True
            self._unsent["READY"] = "1"
        self._unsent["STATUS"] = _cut(self._status())

    def _send(self) -> bool:
        """Tell it what it has not been told yet, if it takes it now."""
        if not self._unsent:
            return True
        message = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto(message.encode(), self._name)
        except BlockingIOError:
            return False
        except OSError as error:
            self._complain(error)
            return False
        self._unsent.clear()
        return True

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            why = error.strerror or error
            name = os.fsdecode(self._name).replace("\0", "@", 1)
            self._say(
                f"nitrohb: the service manager cannot be told how this service is: {why}"
                f" (NOTIFY_SOCKET is {name!r})"
            )


def find_manager(say: Callable[[str], object]) -> Manager | None:
    """The service manager that wants to hear of us, if there is one.

    Args:
        say: Takes a line for a person: that it cannot be told.

    Raises:
        UsageError: A variable of the environment cannot be understood.
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
    return Manager(sockaddr, _interval(), say)


def _interval() -> float | None:
    """Half of what the manager's watchdog waits, as sd_watchdog_enabled(3) advises, in seconds."""
    if not os.environ.get("WATCHDOG_USEC"):
        return None
    microseconds = _number("WATCHDOG_USEC")
    is_ours = not os.environ.get("WATCHDOG_PID") or _number("WATCHDOG_PID") == os.getpid()
    return microseconds / 2e6 if is_ours else None


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
    """A status that fits, whatever the length of the addresses in it, and is UTF-8."""
    data = os.fsencode(status)
    text = data[:_STATUS_MAX].decode("utf-8", "replace")
    return text if len(data) <= _STATUS_MAX else f"{text}..."
