# SPDX-License-Identifier: Apache-2.0
"""SIGINT, SIGTERM and SIGHUP: end the command cleanly, at whatever point it has reached.

A signal raises nothing where the program happens to stand: that could be between the making of a
socket file and the note to remove it, or in a callback whose exceptions are lost. It cancels the
command's cancel scope, or is remembered until there is one. What comes before that, to listen and
to load trio, is soon over. After the first signal the process is on its way out, and lets no other
through: it must not replace the exit code by a traceback.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import FrameType
    from typing import Any, Self

__all__ = ["Stop"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Handles the signals inside a ``with`` block; a signal that is ignored stays ignored.

    Attributes:
        signal: The number of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._cancel: Callable[[], object] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def install(self) -> None:
        """Handle the signals from now on, to the end of the process if nobody leaves the block."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Generator[None]:
        """While the block runs, let a signal call a function, wherever the program stands.

        It is called at once if a signal has come already.
        """
        self._cancel = cancel
        if self.signal is not None:
            cancel()
        try:
            yield
        finally:
            self._cancel = None

    def run(self, command: Callable[[], Awaitable[int]]) -> int:
        """Run an async command under trio until it returns its exit code or a signal cancels it.

        Returns:
            The command's exit code; after a signal 128 and its number, as a shell gives it.
        """
        import trio  # here, because the caller may have begun to listen before this is loaded

        async def cancellable() -> int:
            token = trio.lowlevel.current_trio_token()
            with trio.CancelScope() as scope:
                self._cancel = lambda: token.run_sync_soon(scope.cancel)
                if self.signal is not None:  # it came before this
                    scope.cancel()
                try:
                    return await command()
                finally:
                    self._cancel = None
            return 128 + (self.signal or 0)

        return trio.run(cancellable)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        if self._cancel is not None:
            self._cancel()
