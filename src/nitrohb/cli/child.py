# SPDX-License-Identifier: Apache-2.0
"""A command in a process of its own, which is never left running."""

import errno
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from ..remedies import is_lack_of_threads
from .family import Family, adopt, children
from .terminal import is_sent_by_terminal_to

__all__ = ["Child"]

# Whoever ends after one of these, and not with success, has been ended by it.
_ENDINGS: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class Child:
    """A command, from its start to its end.

    It is in our process group and session: on a terminal it can read, and be stopped and
    continued, and Ctrl-C reaches it without us.

    If it ends by itself, what it leaves behind is left alone: a launcher may well start a VMM and
    be done. If it is ended, so is what it leaves behind; also if a SIGHUP, SIGINT or SIGQUIT came,
    and it does not end with status 0.

    The system could tell it of our own death, if we are killed (PR_SET_PDEATHSIG of prctl(2)), but
    for that code of ours would have to run between fork and exec, where threads make deadlocks of
    locks. And what it watches is the *thread* that forked, which here is a short-lived one of
    trio's: it would end the command in the middle of its work.

    Args:
        grace: Seconds that it has to end by itself, with all that it leaves behind, once it has
            been told to.
        say: Takes a line for a person.

    Attributes:
        status: Its exit status as a shell gives it; that of a SIGTERM if it did not end until it
            was killed. None if it was not started, or has not ended yet.
        refusal: Why it could not be started; None if it could.
    """

    def __init__(self, grace: float, say: Callable[[str], object]) -> None:
        self.status: int | None = None
        self.refusal: OSError | None = None
        self._grace = grace
        self._say = say
        self._process: trio.Process | None = None
        self._told: list[int] = []
        self._interrupted = False
        self._unended = trio.CancelScope()

    @property
    def is_ending(self) -> bool:
        """Whether it has been told to end."""
        return self._unended.cancel_called

    def pass_on(self, number: int) -> None:
        """Pass a signal on, unless the terminal has sent it to the command as well.

        What it means is the command's affair: to reload, say. A command that has not been started
        is not started any more. One that is just being started gets the signal as soon as it runs,
        even if the terminal was quicker: better twice than never.
        """
        self._interrupted |= number in _ENDINGS
        if self._process is None:
            self._told.append(number)
        elif not is_sent_by_terminal_to(self._process.pid, number):
            self._send(self._process, number)

    def end(self) -> None:
        """Tell it to end, by SIGTERM. With the first time its grace begins."""
        self.pass_on(signal.SIGTERM)
        self._unended.cancel()

    async def run(self, argv: Sequence[str], env: Mapping[str, str], stderr: int | None) -> None:
        """Start it, unless there was a signal for it, and wait for its end.

        If this is cancelled, the command is ended first.

        Args:
            argv: The command and its arguments.
            env: Its environment.
            stderr: The descriptor that is to be its stderr; None for ours.
        """
        if self._told:
            return
        adopt()
        others = children()
        try:
            # Descriptors that were handed to us are handed on, as by env(1). Ours close themselves.
            process = await trio.lowlevel.open_process(
                argv, env=env, stderr=stderr, close_fds=False
            )
        except OSError as error:
            self.refusal = error
        except RuntimeError as error:  # of the thread from which trio forks
            if not is_lack_of_threads(error):
                raise
            self.refusal = OSError(errno.EAGAIN, str(error))
        else:
            family = Family(process, others, self._say)
            with family.reaping():
                await self._wait(process, family)

    async def _wait(self, process: trio.Process, family: Family) -> None:
        self._process = process
        for number in self._told:  # meanwhile
            self._send(process, number)
        killed = False
        try:
            with self._unended:
                await process.wait()
        finally:
            if process.returncode is None and not self.is_ending:
                self.end()
            if self.is_ending or (self._interrupted and process.returncode != 0):
                killed = await self._end(process, family)
            self.status = _status(-signal.SIGTERM if killed else process.returncode or 0)

    async def _end(self, process: trio.Process, family: Family) -> bool:
        """Wait until it has ended, with all that it leaves behind; kill what is not in time.

        Returns:
            Whether that was needed for the command itself.
        """
        with trio.move_on_after(self._grace, shield=True) as grace:
            await process.wait()
            await family.end(signal.SIGTERM)
        if not grace.cancelled_caught:
            return False
        late = process.returncode is None
        with trio.CancelScope(shield=True):
            self._send(process, signal.SIGKILL)
            await process.wait()
            await family.end(signal.SIGKILL)
        return late and process.returncode == -signal.SIGKILL

    def _send(self, process: trio.Process, number: int) -> None:
        try:
            process.send_signal(number)
        except PermissionError as error:  # say, because it is sudo
            name = signal.Signals(number).name
            self._say(f"nitrohb: cannot send {name} to the command: {error.strerror}")


def _status(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode
