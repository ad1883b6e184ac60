# SPDX-License-Identifier: Apache-2.0
"""What the console script prints: events, messages on stderr, and a status line on a terminal.

Nothing here ever blocks. A line that its reader does not take now waits in a bounded queue. When
the queue is full, lines are left out and counted. So a reader that pauses, such as a terminal after
Ctrl-S, delays no heartbeat.
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

from ..errors import NitrohbError

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

_GONE: Final = os.strerror(errno.EPIPE)

_CLEAR_LINE: Final = "\r\x1b[K"

# A status that wraps could not be cleared as one line: keep the terminal from wrapping (DECAWM).
_UNWRAPPED: Final = "\x1b[?7l{}\x1b[?7h"


class Stream:
    """stdout, stderr or another file; None if it was closed before Python started.

    Attributes:
        name: What messages call it.
        fd: Its descriptor, or that of a non-blocking duplicate; -1 if it has none.
        is_journal: Whether it goes to the systemd journal.
        problem: Why nothing can be written any more; empty while writing works.
        has_dropped_lines: Whether a line is missing. A reader that has gone misses nothing.
        on_queued: Called when something has to wait in the queue.
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
            with suppress(OSError):  # not a file, but what a caller of main() has put in its place
                self.fd = stream.fileno()

    def open_nonblocking(self) -> None:
        """Open the terminal or the pipe once more, if possible, so that no write can block.

        The flags of the stream itself are shared with other processes.
        """
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            if stat.S_ISFIFO(os.fstat(self.fd).st_mode) or os.isatty(self.fd):
                spare = os.dup(self.fd)  # leave one descriptor for the heartbeats
                try:
                    self.fd = os.open(f"/proc/self/fd/{self.fd}", flags)
                    self._is_ours = True
                finally:
                    os.close(spare)
        except OSError:
            pass  # closed, no descriptor left, no /proc, or another user's terminal: see _write()

    @property
    def has_queued(self) -> bool:
        """Whether something waits in the queue."""
        return bool(self._queue)

    def take_dropped(self) -> int:
        """How many lines were left out since the last call; 0 while the reader still pauses."""
        if self._queue:
            return 0
        count, self._dropped = self._dropped, 0
        return count

    def write(self, text: str) -> str:
        """Write lines, or a status, now or soon, or leave them out; return a new problem or ""."""
        if self.problem:
            return ""
        if self._stream is None:
            return self._fail("it is closed")
        data = os.fsencode(text)  # the encoding of the file system: paths stay exact
        while data and not self.problem:
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
        """Write what is queued as far as the reader takes it; return as :meth:`write`."""
        try:
            while self._queue:
                if not (written := self._write()):
                    self.on_queued()
                    return ""
                del self._queue[:written]
        except OSError as error:
            return self._fail(error.strerror or str(error))
        return ""

    def close(self) -> None:
        """Wait a moment for the reader, and write no more. The stream itself stays open."""
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
        """Write without blocking; return how many bytes, 0 if there is no room."""
        if self.fd < 0 and self._stream is not None:
            self._stream.write(os.fsdecode(bytes(self._queue)))
            return len(self._queue)
        if not (self._is_ours or self._is_writable(0)):
            return 0
        # A pipe or a socket with any room takes this much; a longer write could block. A terminal
        # may take less, so it must not block. Others share this flag: change it for a moment only.
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
        return f"{problem}; nothing more is printed there"


class Output:
    """stdout and stderr of the console script, and where its events go.

    Attributes:
        stdout: stdout.
        stderr: stderr.
        events: Where events go: stdout, stderr, or what ``--events`` names.
        is_json: Whether events and messages are lines of JSON.
        is_terminal: Whether stderr is a terminal that can clear a line.
        level: The least serious level that is printed: see :data:`LEVELS`.
    """

    def __init__(self) -> None:
        self.stdout = self.stderr = self.events = Stream(sys.stdout, "stdout")
        # One queue for one terminal or pipe, so that the order of the lines stays.
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
        """Whether a line on stdout is missing."""
        return self.stdout.has_dropped_lines

    @property
    def streams(self) -> set[Stream]:
        """All that is written to. Some of the three can be one."""
        return {self.stdout, self.stderr, self.events}

    def open_events(self, target: str | int) -> None:
        """Have the events written to another file.

        Args:
            target: Its path, and it is emptied; or the number of a descriptor, which stays open.

        Raises:
            NitrohbError: It cannot be written.
        """
        shown = quoted(target) if isinstance(target, str) else f"fd:{target}"
        name, closefd = f"--events {shown}", isinstance(target, str)
        try:
            self._file = open(target, "w", closefd=closefd, opener=_create)  # noqa: SIM115 - close()
        except OSError as error:
            raise NitrohbError(f"{name} cannot be written: {error.strerror}") from error
        self.events = Stream(self._file, name)

    def print_out(self, text: str, level: int = INFO) -> None:
        """Print one or more lines to stdout, if their level is to be printed.

        Args:
            text: The lines, without the last line break.
            level: Their level.
        """
        if level <= self.level:
            self._write(self.stdout, prioritized(text, level) if self.stdout.is_journal else text)

    def write_events(self, text: str) -> None:
        """Write the lines of events. They are selected and prioritized already."""
        self._write(self.events, text)

    def print_err(self, text: str, level: int = ERROR) -> None:
        """Print a message, of one or more lines, to stderr: see :meth:`print_out`."""
        if level <= self.level:
            self._write(self.stderr, self._message(text, level))

    def _message(self, text: str, level: int) -> str:
        if self.is_json:
            import json  # few messages are JSON, and few are printed before the listen
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
        """Write what is queued as far as the reader takes it, and say what is missing."""
        self._tell_problem(stream, stream.flush())
        self.tell_dropped()

    def _tell_problem(self, stream: Stream, problem: str) -> None:
        if problem:  # of stderr nobody can be told
            self.print_err(f"nitrohb: {stream.name}: {problem}", WARNING)

    def tell_dropped(self) -> None:
        """Say how many lines are missing, as soon as the reader of a stream goes on."""
        for stream in self.streams:
            if count := stream.take_dropped():
                lines = "1 line was" if count == 1 else f"{count} lines were"
                text = f"nitrohb: {stream.name}: {lines} left out while nobody read"
                self._write(self.stderr, self._message(text, WARNING))

    def status(self, text: str) -> None:
        """Show a status line below everything else, on a terminal only. Empty removes it."""
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
        """Remove the status, wait a moment for paused readers, and say what is missing."""
        self.status("")
        for stream in self.streams - {self.stderr}:
            stream.close()
        self.tell_dropped()
        self.stderr.close()
        if self._file is not None:
            self._file.close()


def _create(path: str, _: int) -> int:
    """Open a file of events. A FIFO is read, too, so that its reader may come late, and again."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _are_same(one: TextIO | None, other: TextIO | None) -> bool:
    try:
        return os.path.samestat(*(os.fstat(each.fileno()) for each in (one, other) if each))
    except (OSError, TypeError):  # not files, or one of them is closed
        return False


def _is_terminal(stream: TextIO | None) -> bool:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"  # terminfo(5): it cannot clear a line
    return not is_dumb and stream is not None and stream.isatty()


def _is_journal(stream: TextIO | None) -> bool:
    """Whether a stream is the socket to the systemd journal (JOURNAL_STREAM of systemd.exec(5)).

    The variable is inherited, and a stream may have been redirected since.
    """
    name = os.environ.get("JOURNAL_STREAM")
    if not name or stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return name == f"{status.st_dev}:{status.st_ino}"


def prioritized(text: str, priority: int) -> str:
    """One or more lines, each with its priority for the journal before it (sd-daemon(3))."""
    mark = f"<{priority}>"
    return mark + text.replace("\n", f"\n{mark}")


_is_plain: Final = re.compile(r"[!#-<>-\[\]-~]+").fullmatch  # ASCII without a space, ", = and \


def quoted(text: str) -> str:
    r"""A value of logfmt: the text, or a JSON string where the text could be misread.

    What cannot be printed, or is a byte that is not text, is written like ``\u001b``.
    """
    if _is_plain(text):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{printable(escaped)}"'


def printable(text: str) -> str:
    r"""A text on one line, with what cannot be printed, such as a line break, as ``\u000a``."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()  # as JSON counts them
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
