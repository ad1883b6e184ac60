# SPDX-License-Identifier: Apache-2.0
"""The guest console under ``nitrohb run``: print its last lines, and write all of it to a file."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from threading import Condition, Thread
from typing import Final

import trio

from ..addresses import Address, VsockAddress
from ..console import HYPERVISOR_CID, Console, enclave_console
from ..errors import NitrohbError, described
from ..events import Event
from .output import WARNING, Output, quoted
from .settings import RunSettings

_WAITING_MAX: Final = 1024 * 1024  # bytes that wait for a slow disk
_CLOSE_TIMEOUT: Final = 1.0  # seconds, at the end
_ATTEMPT_TIMEOUT: Final = 1.0  # seconds, at the end


class GuestConsole:
    """Reads the console at an address, or (``"auto"``) that of the enclave that connects.

    Raises:
        UsageError: The address cannot be connected to.
        NitrohbError: The ``--console-log`` file cannot be opened.
    """

    def __init__(self, address: Address | str, settings: RunSettings, output: Output) -> None:
        self._output = output
        self._cids = settings.answer.allow_cids or ()
        self._console: Console | None = None
        self._is_known = trio.Event()
        self._log: Log | None = None
        if address != "auto":
            self._open(address)
        elif len(self._cids) == 1:
            self._open(enclave_console(self._cids[0]))
        if settings.console_log is not None:
            self._log = Log(settings.console_log, lambda text: output.print_err(text, WARNING))

    def on_event(self, event: Event) -> None:
        """Take an event: the first allowed CID that connects is that of the enclave."""
        cid = event.cid
        if self._console is None and cid is not None and (not self._cids or cid in self._cids):
            self._open(enclave_console(cid))

    async def run(self) -> None:
        """Read until cancelled."""
        with ExitStack() as closing:
            if self._log is not None:
                closing.callback(self._log.close)
            await self._is_known.wait()
            assert self._console is not None
            await self._console.run()

    async def wait_attempt(self) -> None:
        """Wait up to 1 s for the first attempt: an enclave can end as soon as its CID is known."""
        if self._console is not None:
            with trio.move_on_after(_ATTEMPT_TIMEOUT):
                await self._console.attempted.wait()

    def explain(self) -> None:
        """Print the last lines of the console, or why there are none."""
        self._output.print_err("\n".join(self._explanation()))

    def _explanation(self) -> list[str]:
        console = self._console
        if console is None:
            return [
                "nitrohb: cannot read the console: no enclave has connected over vsock",
                "Name the CID (--allow-cid CID), or the console (--console vsock:0:PORT, where PORT"
                " is CID + 10000).",
            ]
        address = console.address
        if lines := console.tail():
            title = f"nitrohb: the last lines of the console at {address}:"
            # Without the mark, a guest could print messages that look like those of nitrohb.
            return [title, *(f"| {line}" for line in lines)]
        why = f": {console.error.reason}" if console.error else ""
        text = f"nitrohb: no output from the console at {address}{why}"
        if isinstance(address, VsockAddress) and address.cid == HYPERVISOR_CID:
            return [text, "Start the enclave in debug mode: otherwise it has no console."]
        return [text, "Check that the VMM still runs, and that it has its console there."]

    def _open(self, address: Address | str) -> None:
        self._console = Console(address, on_data=self._on_data)
        self._is_known.set()

    def _on_data(self, data: bytes) -> None:
        if self._log is not None:
            self._log.write(data)


class Log:
    """A file that a thread writes: a slow disk does not delay the event loop.

    Raises:
        NitrohbError: The file cannot be opened.
    """

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self._name = quoted(path)
        self._warn = warn
        self._problem = ""
        self._waiting = bytearray()
        self._dropped = 0
        self._is_closed = False
        self._changed = Condition()
        try:
            self._fd = _create(path)
        except OSError as error:
            raise self._error(
                f"{described(error)}\n"
                "Name a file that this user can write, in a directory that exists."
            ) from error
        self._thread = Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the system refuses to start a thread
            os.close(self._fd)
            raise self._error(f"{error}\nRaise the process limit (ulimit -u).") from error

    def _error(self, why: str) -> NitrohbError:
        return NitrohbError(f"cannot write to --console-log {self._name}: {why}")

    def write(self, data: bytes) -> None:
        """Write bytes soon. If too many wait already, drop them and say so in the file."""
        with self._changed:
            room = _WAITING_MAX - len(self._waiting)
            self._waiting += data[:room]
            self._dropped += len(data[room:])
            self._changed.notify()
        self._tell_problem()

    def close(self) -> None:
        """Wait up to 1 s until all is written."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_TIMEOUT)
        if self._thread.is_alive():
            self._problem = "it accepts no more data, so its end is missing"
        self._tell_problem()

    def _tell_problem(self) -> None:
        if self._problem:
            problem = self._error(f"{self._problem}\nName a file on a disk that has room.")
            self._warn(f"nitrohb: {problem}")
            self._problem = ""

    # In the thread.

    def _run(self) -> None:
        try:
            while data := self._take():
                while data:
                    del data[: os.write(self._fd, data)]
        except OSError as error:
            self._problem = f"{described(error)}; nitrohb writes nothing more there"
        finally:
            os.close(self._fd)

    def _take(self) -> bytearray:
        """Wait for bytes, and return them. No bytes are the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            data, self._waiting = self._waiting, bytearray()
            if self._dropped:
                data += f"\n[nitrohb: {self._dropped} bytes dropped: slow disk]\n".encode()
                self._dropped = 0
            return data


def _create(path: str) -> int:
    """Open a file for writing, and empty it. Do not wait for the reader of a FIFO."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    os.set_blocking(fd, True)
    return fd
