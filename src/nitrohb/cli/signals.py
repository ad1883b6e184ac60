# SPDX-License-Identifier: Apache-2.0
"""Signal handlers: a signal ends the command cleanly, at whatever point it has reached.

A handler never raises: the program could be between the creation of a socket file and the note to
remove it, or in a callback whose exceptions are lost. The handler cancels the command's cancel
scope, or remembers the signal until there is one. After the first signal all others are blocked:
they must not replace the exit code by a traceback.

``run`` passes the signals on to its process instead, and is not cancelled. They are not blocked
then, because a new process would inherit that. SIGINT, SIGTERM and SIGHUP are handled for every
command; SIGQUIT, SIGUSR1 and SIGUSR2 only for ``run``.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable
    from types import FrameType

_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TO_PASS_ON = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """The signal handlers of the process. A signal that is ignored stays ignored.

    Attributes:
        signal: The number of the first signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._deliver: Callable[[int], object] | None = None
        self._passes_on = False
        self._handled: set[int] = set()

    def install(self) -> None:
        """Handle SIGINT, SIGTERM and SIGHUP from now on."""
        self._install(_TO_END)

    def install_forwarded(self) -> None:
        """Handle SIGQUIT, SIGUSR1 and SIGUSR2, too."""
        self._install(_TO_PASS_ON)

    def _install(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
                self._handled.add(number)

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Generator[None]:
        """Let a signal call a function, from wherever the program is, while the block runs.

        If a signal has arrived already, the function is called at once.
        """
        self._deliver = lambda _: cancel()
        if self.signal is not None:
            cancel()
        try:
            yield
        finally:
            self._deliver = None

    def run(
        self,
        command: Callable[[], Awaitable[int]],
        on_signal: Callable[[int], object] | None = None,
    ) -> int:
        """Run an async command under trio until it returns its exit code or a signal cancels it.

        Args:
            command: The command.
            on_signal: Called in the event loop with the number of each signal that arrives while
                the command runs. The command is not cancelled then. A signal that arrived before
                cancels it at its first checkpoint. After the command all signals are ignored.

        Returns:
            The exit code of the command; 128 + n if signal n cancelled it.
        """
        import trio  # after the listen

        async def cancellable() -> int:
            token = trio.lowlevel.current_trio_token()
            with trio.CancelScope() as scope:

                def deliver(number: int) -> None:
                    if on_signal is None:
                        token.run_sync_soon(scope.cancel)
                    else:
                        token.run_sync_soon(on_signal, number)

                self._passes_on = on_signal is not None
                self._deliver = deliver
                if self.signal is not None:
                    scope.cancel()
                try:
                    return await command()
                finally:
                    self._finish()
            return 128 + (self.signal or 0)

        return trio.run(cancellable)

    def _finish(self) -> None:
        if self._passes_on:
            # To block them would concern this thread only, and trio may have others.
            for number in self._handled:
                signal.signal(number, signal.SIG_IGN)
        self._deliver = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        if not self._passes_on:
            signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)
        if self._deliver is not None:
            self._deliver(number)
