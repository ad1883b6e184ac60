# SPDX-License-Identifier: Apache-2.0
"""A stream that the console script writes to: a line at once, or not at all.

A heartbeat is never lost for want of somebody to read about it. So a reader who pauses, as a
terminal does after Ctrl-S, is waited for once, and then not again until it goes on: what comes
meanwhile is left out, and counted.
"""

from __future__ import annotations

import errno
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, TextIO

__all__ = ["Outlet"]

_PATIENCE: Final = 1.0  # seconds; all the while no enclave is answered

_GONE: Final = os.strerror(errno.EPIPE)


class Outlet:
    """stdout or stderr.

    Args:
        stream: It; None if it was closed before Python started.

    Attributes:
        problem: Why nothing can be written any more; empty while something can.
        has_lost: Whether something is missing that somebody may have wanted: not if the reader has
            gone, who has then read enough.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.problem = ""
        self.has_lost = False
        self._is_stalled = False
        self._is_cut = False
        self._left_out = 0
        # Opened now, because there may be no descriptor left when it is needed.
        self._nowhere = _open_nowhere()

    def close(self) -> int:
        """Write nothing more. The stream itself stays open.

        Returns:
            How many lines were left out, as far as :meth:`left_out` has not told.
        """
        if self._nowhere is not None:
            os.close(self._nowhere)
            self._nowhere = None
        count, self._left_out = self._left_out, 0
        return count

    def duplicate(self) -> int | None:
        """A descriptor of the stream as it is now; None if there is none, or it goes nowhere."""
        if self._stream is None or self.problem:
            return None
        try:
            return os.dup(self._stream.fileno())
        except OSError:
            return None

    def left_out(self) -> int:
        """How many lines were left out, once: when the reader goes on, so that it can be said."""
        if not self._is_stalled or not self._has_room(0):
            return 0
        count, self._left_out, self._is_stalled = self._left_out, 0, False
        return count

    def write(self, text: str, matters: bool = True) -> str:
        """Write at once; if that cannot be, the rest of the text is left out.

        Args:
            text: Whole lines, or what takes up no line.
            matters: Whether it is waited for a reader, and counted what is left out.

        Returns:
            What a person should be told of that, if it is new; else nothing.
        """
        if self.problem:
            return ""
        if self._stream is None:
            return self._end("it is closed")
        try:
            self._stream.flush()
            if _is_file(self._stream):
                data = os.fsencode(text)  # the file system's encoding: paths stay exact
                return self._write(data, matters)
            self._stream.write(text)  # what a caller of main() has put in the place of a file
        except OSError as error:
            # Then the interpreter does not fail to flush it at its end.
            if self._nowhere is not None:
                os.dup2(self._nowhere, self._stream.fileno())
            return self._end(error.strerror or str(error))
        return ""

    def _end(self, problem: str) -> str:
        self.problem = problem
        self.has_lost |= problem != _GONE
        return f"{problem}; nothing more is printed there"

    def _write(self, data: bytes, matters: bool) -> str:
        if self._is_cut:
            data = b"\n" + data
        rest = self._write_in_time(data, _PATIENCE if matters and not self._is_stalled else 0)
        if not rest:
            self._is_cut = False
            return ""
        self._is_cut |= len(rest) < len(data)
        if not matters:
            return ""
        # A line of which nothing but its end is missing gets that before the next one.
        self._left_out += rest.count(b"\n") - (self._is_cut and rest.startswith(b"\n"))
        self.has_lost |= self._left_out > 0
        is_new, self._is_stalled = not self._is_stalled, True
        return "nobody reads it; until somebody does, lines are left out" if is_new else ""

    def _write_in_time(self, data: bytes, patience: float) -> bytes:
        """Write, do not wait long for a reader, and return what could not be written."""
        deadline = time.monotonic() + patience
        while data and self._has_room(max(deadline - time.monotonic(), 0)):
            # A pipe that has room for something takes this much; a longer write could block.
            written = os.write(self._fileno(), data[: select.PIPE_BUF])
            data = data[written:]
        return data

    def _has_room(self, patience: float) -> bool:
        return bool(select.select([], [self._fileno()], [], patience)[1])

    def _fileno(self) -> int:
        assert self._stream is not None
        return self._stream.fileno()


def _open_nowhere() -> int | None:
    try:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _is_file(stream: TextIO) -> bool:
    try:
        stream.fileno()
    except OSError:
        return False
    return True
