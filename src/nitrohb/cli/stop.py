# SPDX-License-Identifier: Apache-2.0
"""Signals: end the command cleanly, at whatever point it has reached.

A signal raises nothing where the program happens to stand: that could be between the making of a
socket file and the note to remove it, or in a callback whose exceptions are lost. It cancels the
command's cancel scope, or is remembered until there is one. What comes before that, to listen and
to load trio, is soon over. After the first signal the process is on its way out, and lets no other
through: it must not replace the exit code by a traceback.

A command that has a process of its own takes the signals itself, all of them, and is not
cancelled. Then they are not blocked either: what is blocked here stays blocked in a new process.
SIGINT, SIGTERM and SIGHUP are for every command; SIGQUIT, SIGUSR1 and SIGUSR2 only for such a one,
and end it before it has a process.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable
    from types import FrameType
    from typing import Any, Self

__all__ = ["Stop"]

_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TO_PASS_ON = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Stop:
    """Handles the signals inside a ``with`` block; a signal that is ignored stays ignored.

    Attributes:
        signal: The number of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._deliver: Callable[[int], object] | None = None
        self._takes = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def install(self) -> None:
        """Handle the signals from now on, to the end of the process if nobody leaves the block."""
        self._install(_TO_END)

    def install_rest(self) -> None:
        """Handle also those that are to be passed on."""
        self._install(_TO_PASS_ON)

    def _install(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Generator[None]:
        """While the block runs, let a signal call a function, wherever the program stands.

        It is called at once if a signal has come already.
        """
        self._deliver = lambda _: cancel()
        if self.signal is not None:
            cancel()
        try:
            yield
        finally:
            self._deliver = None

    def run(
        self, command: Callable[[], Awaitable[int]], take: Callable[[int], object] | None = None
    ) -> int:
        """Run an async command under trio until it returns its exit code or a signal cancels it.

        Args:
            command: The command.
            take: Called in the command's event loop with the number of each signal that comes
                while the command runs, which is then not cancelled. One that came before cancels
                it at its first checkpoint. After the command no signal comes through any more.

        Returns:
            The command's exit code; if a signal cancelled it, 128 and its number, as a shell gives
            it.
        """
        import trio  # here, because the caller may have begun to listen before this is loaded

        async def cancellable() -> int:
            token = trio.lowlevel.current_trio_token()
            with trio.CancelScope() as scope:

                def deliver(number: int) -> None:
                    if take is None:
                        token.run_sync_soon(scope.cancel)
                    else:
                        token.run_sync_soon(take, number)

                self._takes = take is not None
                self._deliver = deliver
                if self.signal is not None:  # it came before this
                    scope.cancel()
                try:
                    return await command()
                finally:
                    self._finish()
            return 128 + (self.signal or 0)

        return trio.run(cancellable)

    def _finish(self) -> None:
        if self._takes:
            # Not blocked, as that would be for this thread only, and trio may have others by now.
            for number in self._before:
                signal.signal(number, signal.SIG_IGN)
        self._deliver = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        if not self._takes:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        if self._deliver is not None:
            self._deliver(number)
