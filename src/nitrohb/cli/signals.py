# SPDX-License-Identifier: Apache-2.0
"""Signal handlers: a signal ends a command cleanly at any point.

A handler never raises: the program could have created a socket file that it would then not remove,
or be in a callback whose exceptions are lost. Instead, the handler cancels the cancel scope of the
command, or stores the signal until there is a scope. The first signal blocks all later ones, which
could otherwise replace the exit code with a traceback.

``run`` is not cancelled: it passes signals on to its process. It blocks them only at its end,
because a new process would inherit the blocked signals. Every command handles SIGINT, SIGTERM and
SIGHUP; only ``run`` handles SIGQUIT, SIGUSR1 and SIGUSR2.
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
    """The signal handlers of the process. Ignored signals stay ignored.

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
        """Also handle SIGQUIT, SIGUSR1 and SIGUSR2."""
        self._install(_TO_PASS_ON)

    def _install(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
                self._handled.add(number)

    @contextmanager
    def cancelling(self, cancel: Callable[[], object]) -> Generator[None]:
        """While the block runs, call a function from the handler of a signal.

        If a signal has arrived already, call the function at once.
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
            on_signal: If given, a signal does not cancel the command. Instead, this is called in
                the event loop with the number of each signal. A signal that arrived earlier still
                cancels the command at its first checkpoint. Later signals are ignored.

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
            # Python would print a traceback for a signal that arrives during the change of its
            # handler. Blocking alone is not enough: it affects this thread only.
            signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)
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
