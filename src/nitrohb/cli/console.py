# SPDX-License-Identifier: Apache-2.0
"""What the console script prints: lines on stdout and stderr, and a status line on a terminal.

A heartbeat is never lost for want of somebody to read about it: see :mod:`.outlet`.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from .journal import is_journal, prioritized
from .levels import DEBUG, ERROR, INFO, WARNING
from .outlet import Outlet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Final, TextIO

__all__ = ["Console"]

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
    """

    def __init__(self) -> None:
        self._out = Outlet(sys.stdout)
        self._err = Outlet(sys.stderr)
        self._status = ""
        self.is_terminal = _is_terminal(sys.stderr)
        self.level = DEBUG
        self.out_is_journal = is_journal(sys.stdout)
        self.err_is_journal = is_journal(sys.stderr)

    @property
    def has_lost(self) -> bool:
        """Whether something could not be printed to stdout that somebody may have wanted."""
        return self._out.has_lost

    def print(self, text: str, level: int | None = INFO) -> None:
        """Print a line to stdout, or several.

        Args:
            text: The lines, without the last line break.
            level: Their level; None if they have been chosen, and prioritized, already.
        """
        self._say_what_is_missing(self._out.left_out())
        self._without_status()
        chosen = self._chosen(text, level, self.out_is_journal)
        problem = self._out.write(f"{chosen}\n") if chosen else ""
        self._show_status()
        if problem:
            self._say(f"nitrohb: stdout: {problem}", WARNING, matters=False)

    def say(self, text: str, level: int | None = ERROR) -> None:
        """Print a line to stderr, or several, for a person; otherwise like :meth:`print`."""
        self._say(text, level, matters=True)

    def _say(self, text: str, level: int | None, matters: bool) -> None:
        self._without_status()
        if chosen := self._chosen(text, level, self.err_is_journal):
            self._write_err(f"{chosen}\n", matters)
        self._show_status()

    def _say_what_is_missing(self, count: int) -> None:
        if count:
            self.say(f"nitrohb: stdout: {_lines(count)} left out, while nobody read it", WARNING)

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
            self._say_what_is_missing(self._out.left_out())
            self._without_status()
            self._status = text
            self._show_status()

    @contextmanager
    def stderr(self) -> Generator[int | None]:
        """Keep stderr as it is now, for another process: ours may have to go nowhere.

        Yields:
            A descriptor that is closed at the end of the block; None if there is no stderr.
        """
        fd = self._err.duplicate()
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def close(self) -> None:
        """Leave the terminal tidy, and say what is missing on stdout."""
        self.status("")
        self._say_what_is_missing(self._out.close())
        self._err.close()

    def _without_status(self) -> None:
        if self._status:
            self._write_err(_CLEAR_LINE, matters=False)

    def _show_status(self) -> None:
        if self._status:
            self._write_err(_CUT_OFF.format(self._status), matters=False)

    def _write_err(self, text: str, matters: bool) -> None:
        if count := self._err.left_out():
            missing = f"nitrohb: stderr: {_lines(count)} left out, while nobody read it"
            if chosen := self._chosen(missing, WARNING, self.err_is_journal):
                self._err.write(f"{_CLEAR_LINE if self.is_terminal else ''}{chosen}\n")
        self._err.write(text, matters)


def _lines(count: int) -> str:
    return f"{count} line was" if count == 1 else f"{count} lines were"


def _is_terminal(stream: TextIO | None) -> bool:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"  # terminfo(5) has it for what clears nothing
    return not is_dumb and stream is not None and stream.isatty()
