# SPDX-License-Identifier: Apache-2.0
"""What the console script prints: lines on stdout and stderr, and a status line on a terminal.

A heartbeat is never lost for want of somebody to read about it: when stdout or stderr cannot be
written to any more, or nobody makes room in a full pipe, printing there ends, and the command goes
on.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import time
from contextlib import contextmanager

from .journal import is_journal, prioritized
from .levels import DEBUG, ERROR, INFO, WARNING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Final, TextIO

__all__ = ["Console"]

_PATIENCE: Final = 1.0  # seconds; all the while no enclave is answered

_CLEAR_LINE: Final = "\r\x1b[K"

# A status that wraps could not be cleared as one line: so the terminal must not wrap it (DECAWM).
_CUT_OFF: Final = "\x1b[?7l{}\x1b[?7h"


class Console:
    """The script's stdout and stderr.

    Attributes:
        is_terminal: Whether somebody watches: stderr is a terminal that can clear a line.
        level: The least level that is shown; what matters less is not.
        out_is_journal: Whether stdout goes to the systemd journal.
        err_is_journal: Whether stderr goes there.
        has_lost: Whether something could not be printed to stdout that somebody may have wanted:
            not if the reader has gone, who has then read enough.
    """

    def __init__(self) -> None:
        self._out: TextIO | None = sys.stdout
        self._err: TextIO | None = sys.stderr
        self._prints = True
        self.has_lost = False
        self._status = ""
        self.is_terminal = _is_terminal(self._err)
        self.level = DEBUG
        self.out_is_journal = is_journal(self._out)
        self.err_is_journal = is_journal(self._err)
        # Opened now, because there may be no descriptor left when it is needed.
        self._nowhere = _open_nowhere()

    def print(self, text: str, level: int | None = INFO) -> None:
        """Print a line to stdout, or several.

        Args:
            text: The lines, without the last line break.
            level: Their level; None if they have been chosen, and prioritized, already.
        """
        self._without_status()
        chosen = self._chosen(text, level, self.out_is_journal) if self._prints else ""
        if chosen and (problem := self._write(self._out, f"{chosen}\n")):
            self._prints = False
            self.has_lost = problem != os.strerror(errno.EPIPE)
            self.say(f"nitrohb: stdout: {problem}; nothing more is printed there", WARNING)
        self._show_status()

    def say(self, text: str, level: int | None = ERROR) -> None:
        """Print a line to stderr, or several, for a person; otherwise like :meth:`print`."""
        self._without_status()
        if chosen := self._chosen(text, level, self.err_is_journal):
            self._write_err(f"{chosen}\n")
        self._show_status()

    def _chosen(self, text: str, level: int | None, to_journal: bool) -> str:
        """A text as it is to be printed; nothing if it does not matter enough."""
        if level is None:
            return text
        if level > self.level:
            return ""
        return prioritized(text, level) if to_journal else text

    def status(self, text: str) -> None:
        """Show a status line under everything else; only on a terminal. Empty: take it away."""
        if self.is_terminal:
            self._without_status()
            self._status = text
            self._show_status()

    @contextmanager
    def stderr(self) -> Generator[int | None]:
        """Keep stderr as it is now, for another process: ours may have to go nowhere.

        Yields:
            A descriptor that is closed at the end of the block; None if there is no stderr.
        """
        fd = None if self._err is None else _duplicate(self._err)
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def close(self) -> None:
        """Leave the terminal tidy."""
        self.status("")
        if self._nowhere is not None:
            os.close(self._nowhere)
            self._nowhere = None

    def _without_status(self) -> None:
        if self._status:
            self._write_err(_CLEAR_LINE)

    def _show_status(self) -> None:
        if self._status:
            self._write_err(_CUT_OFF.format(self._status))

    def _write_err(self, text: str) -> None:
        if self._write(self._err, text):
            self._err = None

    def _write(self, stream: TextIO | None, text: str) -> str:
        """Write at once, and return what went wrong, if anything.

        The stream then goes nowhere, so that the interpreter does not fail to flush it at its end.
        """
        if stream is None:  # it was closed before Python started
            return "it is closed"
        try:
            _write(stream, text)
        except OSError as error:
            if self._nowhere is not None:
                os.dup2(self._nowhere, stream.fileno())
            return error.strerror or str(error)
        return ""


def _is_terminal(stream: TextIO | None) -> bool:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"  # terminfo(5) has it for what clears nothing
    return not is_dumb and stream is not None and stream.isatty()


def _open_nowhere() -> int | None:
    try:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _duplicate(stream: TextIO) -> int | None:
    try:
        return os.dup(stream.fileno())
    except OSError:
        return None


def _is_file(stream: TextIO) -> bool:
    try:
        stream.fileno()
    except OSError:
        return False
    return True


def _write(stream: TextIO, text: str) -> None:
    """Write in the file system's encoding: paths stay exact. Do not wait long for a reader."""
    stream.flush()
    if not _is_file(stream):  # but what a caller of main() has put in the place of one
        stream.write(text)
        return
    data = os.fsencode(text)
    deadline = time.monotonic() + _PATIENCE
    # A pipe that has room for something takes this much; a longer write could block for ever.
    for start in range(0, len(data), select.PIPE_BUF):
        left = max(deadline - time.monotonic(), 0)
        if not select.select([], [stream], [], left)[1]:
            raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
        stream.buffer.write(data[start : start + select.PIPE_BUF])
        stream.buffer.flush()
