# SPDX-License-Identifier: Apache-2.0
"""The output of the console script: events, messages on stderr, a status line on a terminal.

Nothing here blocks: a reader that pauses, such as a terminal after Ctrl-S, does not delay
heartbeats. Lines for such a reader wait in a bounded queue. When it is full, lines are dropped and
counted.
"""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import sys
import time
from contextlib import suppress

from ..errors import NitrohbError, described

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TextIO

# The levels of --log-level, as the priorities of syslog(3): a lower number is more serious.
NOTHING: Final = -1  # below all of them: print nothing
ERROR: Final = 3
WARNING: Final = 4
INFO: Final = 6
DEBUG: Final = 7

LEVELS: Final = {"error": ERROR, "warning": WARNING, "info": INFO, "debug": DEBUG}
LEVEL_NAMES: Final = {level: name for name, level in LEVELS.items()}

_QUEUE_MAX: Final = 256 * 1024  # bytes
_FLUSH_TIMEOUT: Final = 1.0  # seconds, at the end

_GONE: Final = described(OSError(errno.EPIPE, os.strerror(errno.EPIPE)))

_CLEAR_LINE: Final = "\r\x1b[K"

# Without wrapping (DECAWM): only a status of one line can be cleared.
_UNWRAPPED: Final = "\x1b[?7l{}\x1b[?7h"


class Stream:
    """stdout, stderr or another file, with a queue for the time when its reader pauses.

    ``stream`` is None if the file was closed before Python started.

    Attributes:
        name: The name for messages.
        fd: The descriptor, or that of a non-blocking duplicate; -1 if there is none.
        is_journal: Whether the file is the stream to the systemd journal.
        problem: Why nothing can be written any more; empty while writing works.
        has_dropped_lines: Whether a line was dropped, not counting those after the reader has gone.
        on_queued: Called when lines have to wait in the queue.
    """

    def __init__(self, stream: TextIO | None, name: str = "") -> None:
        self.name = name
        self._stream = stream
        self._queue = bytearray()
        self._dropped = 0
        self._is_ours = False
        self.fd = -1
        self.is_journal = _is_journal(stream)
        self.problem = ""
        self.has_dropped_lines = False
        self.on_queued: Callable[[], object] = lambda: None
        if stream is not None:
            with suppress(OSError):  # a caller of main() can replace stdout by another object
                self.fd = stream.fileno()

    def open_nonblocking(self) -> None:
        """Open the terminal or the pipe again, if possible, so that no write can block.

        Other processes share the flags of the stream itself.
        """
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        # It fails without a free descriptor or /proc, and on the terminal of another user.
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(self.fd).st_mode) or os.isatty(self.fd):
                spare = os.dup(self.fd)  # leave one descriptor for the heartbeats
                try:
                    self.fd = os.open(f"/proc/self/fd/{self.fd}", flags)
                    self._is_ours = True
                finally:
                    os.close(spare)

    @property
    def has_queued(self) -> bool:
        """Whether lines wait in the queue."""
        return bool(self._queue)

    def take_dropped(self) -> int:
        """Return how many lines were dropped since the last call; 0 while the reader pauses."""
        if self._queue:
            return 0
        count, self._dropped = self._dropped, 0
        return count

    def write(self, text: str) -> str:
        """Write or queue text, or drop lines if the queue is full; return a new problem or ""."""
        if self.problem:
            return ""
        if self._stream is None:
            return self._fail("it is closed")
        data = os.fsencode(text)  # the encoding of the file system: paths stay exact
        while data:
            piece = data[: _QUEUE_MAX - len(self._queue)]
            if len(piece) < len(data):  # whole lines, or nothing
                piece = piece[: piece.rfind(b"\n") + 1]
            if not piece:
                break
            self._queue += piece
            data = data[len(piece) :]
            if problem := self.flush():
                return problem
        self._dropped += data.count(b"\n")
        self.has_dropped_lines |= bool(data)
        return ""

    def flush(self) -> str:
        """Write from the queue until the reader pauses; return a new problem or ""."""
        try:
            while self._queue:
                if not (written := self._write()):
                    self.on_queued()
                    return ""
                del self._queue[:written]
        except OSError as error:
            return self._fail(described(error))
        return ""

    def close(self) -> None:
        """Wait up to 1 s for the reader, then write no more. The file itself stays open."""
        deadline = time.monotonic() + _FLUSH_TIMEOUT
        while self._queue and self._is_writable(max(deadline - time.monotonic(), 0)):
            self.flush()
        self._dropped += self._queue.count(b"\n")
        self.has_dropped_lines |= bool(self._queue)
        self._queue.clear()
        if self._is_ours:
            os.close(self.fd)
            self.fd, self._is_ours = -1, False
        self.problem = self.problem or "it is closed"

    def _write(self) -> int:
        """Write without blocking; return the number of bytes, 0 if there is no room."""
        if self.fd < 0 and self._stream is not None:
            self._stream.write(os.fsdecode(bytes(self._queue)))
            return len(self._queue)
        if not (self._is_ours or self._is_writable(0)):
            return 0
        # A writable pipe or socket takes PIPE_BUF bytes without blocking. A terminal can take less,
        # so make it non-blocking. Other processes share that flag: change it for a moment only.
        data = self._queue if self._is_ours else self._queue[: select.PIPE_BUF]
        blocks = not self._is_ours and os.isatty(self.fd) and os.get_blocking(self.fd)
        try:
            if blocks:
                os.set_blocking(self.fd, False)
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        finally:
            if blocks:
                os.set_blocking(self.fd, True)

    def _is_writable(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _fail(self, problem: str) -> str:
        self.problem = problem
        self.has_dropped_lines |= problem != _GONE
        self._queue.clear()
        return problem


class Output:
    """The stdout and stderr of the console script, and the stream for its events.

    Attributes:
        stdout: The stream to stdout.
        stderr: The stream to stderr.
        events: The stream for events: one of these two, or the file that ``--events`` names.
        is_json: Whether events and messages are printed as JSON.
        is_terminal: Whether stderr is a terminal that can clear a line.
        level: The least serious level to print: see ``LEVELS``.
    """

    def __init__(self) -> None:
        self.stdout = self.stderr = self.events = Stream(sys.stdout, "stdout")
        # If both are the same file, one queue keeps the lines in order.
        if not _are_same(sys.stdout, sys.stderr):
            self.stderr = Stream(sys.stderr, "stderr")
        self._file: TextIO | None = None
        self.is_json = False
        self.is_terminal = _is_terminal(sys.stderr)
        self.level = DEBUG
        self._status = ""
        self._is_status_shown = False

    @property
    def has_dropped_lines(self) -> bool:
        """Whether a line for stdout was dropped."""
        return self.stdout.has_dropped_lines

    @property
    def streams(self) -> set[Stream]:
        """The streams without duplicates."""
        return {self.stdout, self.stderr, self.events}

    def open_events(self, target: str | int) -> None:
        """Write events to another file.

        Args:
            target: The path of a file, which is emptied, or a descriptor, which stays open.

        Raises:
            NitrohbError: The file cannot be opened.
        """
        name = f"--events {quoted(target) if isinstance(target, str) else f'fd:{target}'}"
        closefd = isinstance(target, str)
        try:
            self._file = open(target, "w", closefd=closefd, opener=_create)  # noqa: SIM115 - close()
        except OSError as error:
            raise NitrohbError(
                f"cannot write to {name}: {described(error)}\n"
                "Name a file that this user can write, in a directory that exists."
            ) from error
        self.events = Stream(self._file, name)

    def print_out(self, text: str, level: int = INFO) -> None:
        """Print one or more lines to stdout, unless their level is below ``self.level``.

        Args:
            text: The lines, without the last line break.
            level: The level of the lines.
        """
        if level <= self.level:
            self._write(self.stdout, prioritized(text, level) if self.stdout.is_journal else text)

    def write_events(self, text: str) -> None:
        """Write the lines of events, which have their priorities already."""
        self._write(self.events, text)

    def print_err(self, text: str, level: int = ERROR) -> None:
        """Print a message of one or more lines to stderr, unless its level is too low."""
        if level <= self.level:
            self._write(self.stderr, self._message(text, level))

    def _message(self, text: str, level: int) -> str:
        if self.is_json:
            import json  # rarely needed before the listen
            from datetime import UTC, datetime

            time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            fields = {"event": "message", "time": time, "message": text.removeprefix("nitrohb: ")}
            text = json.dumps({**fields, "level": LEVEL_NAMES[level]})
        return prioritized(text, level) if self.stderr.is_journal else text

    def _write(self, stream: Stream, text: str) -> None:
        self.tell_dropped()
        self._clear_status()
        problem = stream.write(f"{text}\n")
        self._show_status()
        self._tell_problem(stream, problem)

    def flush(self, stream: Stream) -> None:
        """Write from the queue until the reader pauses, and report dropped lines."""
        self._tell_problem(stream, stream.flush())
        self.tell_dropped()

    def _tell_problem(self, stream: Stream, problem: str) -> None:
        if problem:  # if stderr fails, this is not printed anywhere
            text = f"cannot write to {stream.name}: {problem}; nitrohb prints nothing more there"
            self.print_err(f"nitrohb: {text}\nIf you need the lines, send them elsewhere.", WARNING)

    def tell_dropped(self) -> None:
        """Report how many lines were dropped, once the reader of a stream has gone on."""
        for stream in self.streams:
            if count := stream.take_dropped():
                lines = "1 line" if count == 1 else f"{count} lines"
                text = f"nitrohb: dropped {lines} for {stream.name}: its reader paused"
                advice = "Use a faster reader, or a file."
                self._write(self.stderr, self._message(f"{text}\n{advice}", WARNING))

    def status(self, text: str) -> None:
        """On a terminal, show a status line below all other output. An empty text removes it."""
        if self.is_terminal:
            self.tell_dropped()
            self._clear_status()
            self._status = text
            self._show_status()

    def _clear_status(self) -> None:
        if self._is_status_shown:
            self._is_status_shown = False
            self.stderr.write(_CLEAR_LINE)

    def _show_status(self) -> None:
        if self._status and not self.stderr.has_queued:
            self._is_status_shown = True
            self.stderr.write(_UNWRAPPED.format(self._status))

    def close(self) -> None:
        """Remove the status, wait up to 1 s for paused readers, and report dropped lines."""
        self.status("")
        for stream in self.streams - {self.stderr}:
            stream.close()
        self.tell_dropped()
        self.stderr.close()
        if self._file is not None:
            self._file.close()


def _create(path: str, _: int) -> int:
    """Open a file for events. O_RDWR opens a FIFO without a reader, and keeps it open later."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _are_same(one: TextIO | None, other: TextIO | None) -> bool:
    try:
        return os.path.samestat(*(os.fstat(each.fileno()) for each in (one, other) if each))
    except (OSError, TypeError):  # one of them is not a file, or is closed
        return False


def _is_terminal(stream: TextIO | None) -> bool:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"  # terminfo(5): it cannot clear a line
    return not is_dumb and stream is not None and stream.isatty()


def _is_journal(stream: TextIO | None) -> bool:
    """Whether a stream is the socket to the systemd journal (JOURNAL_STREAM of systemd.exec(5))."""
    if (name := os.environ.get("JOURNAL_STREAM")) and stream is not None:
        with suppress(OSError):
            status = os.fstat(stream.fileno())  # it might have been redirected
            return name == f"{status.st_dev}:{status.st_ino}"
    return False


def prioritized(text: str, priority: int) -> str:
    """Put the priority for the journal before each line (sd-daemon(3))."""
    mark = f"<{priority}>"
    return mark + text.replace("\n", f"\n{mark}")


_is_plain: Final = re.compile(r"[!#-<>-\[\]-~]+").fullmatch  # ASCII without a space, ", = and \


def quoted(text: str) -> str:
    r"""Return the text, or a JSON string if a reader of logfmt could misread the text.

    Unprintable characters, and bytes that are not text, become escapes such as ``\u001b``.
    """
    if _is_plain(text):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{printable(escaped)}"'


def printable(text: str) -> str:
    r"""Return the text in one line: unprintable characters become escapes such as ``\u000a``."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()  # as JSON counts them
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
