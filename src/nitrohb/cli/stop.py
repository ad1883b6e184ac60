# SPDX-License-Identifier: Apache-2.0
"""SIGINT and SIGTERM: end the command cleanly, at whatever point it has reached.

Before trio runs, the signal is raised as an exception where the program stands. While trio runs
that could hit its internals, so that the signal cancels the command's cancel scope instead.
"""

import signal
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, Self

__all__ = ["Stop", "Stopped"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):  # noqa: N818 - like KeyboardInterrupt, it is no error
    """A signal has asked us to stop."""


class Stop:
    """Handles the signals inside a ``with`` block; a signal that is ignored stays ignored.

    Attributes:
        signal: The number of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._react: Callable[[], object] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Callable[[], Awaitable[int]]) -> int:
        """Run an async command under trio until it returns its exit code or a signal cancels it."""
        import trio  # here, because the caller may have begun to listen before this is loaded

        async def cancellable() -> int:
            token = trio.lowlevel.current_trio_token()
            with trio.CancelScope() as scope:
                self._react = lambda: token.run_sync_soon(scope.cancel)
                if self.signal is not None:  # it came after trio.run() and before this
                    scope.cancel()
                return await command()
            self._react = _remember_only
            return self.exit_code()

        self._react = _remember_only
        return trio.run(cancellable)

    def exit_code(self) -> int:
        """The exit code of a command that the signal has ended, as a shell gives it."""
        return 128 + (self.signal or 0)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        if self._react is None:
            raise Stopped
        self._react()


def _remember_only() -> None:
    """React to a signal by nothing more than remembering it."""
