# SPDX-License-Identifier: Apache-2.0
"""A command in a process of its own, which is never left running."""

import signal
from collections.abc import Callable, Mapping, Sequence

import trio

__all__ = ["Child"]


class Child:
    """A command, from its start to its end.

    It is in our process group and session: on a terminal it can read, and be stopped and
    continued, and Ctrl-C reaches it even without us.

    The system could tell it of our own death, if we are killed (PR_SET_PDEATHSIG of prctl(2)), but
    for that code of ours would have to run between fork and exec, where threads make deadlocks of
    locks. And what it watches is the *thread* that forked, which here is a short-lived one of
    trio's: it would end the command in the middle of its work.

    Args:
        grace: Seconds that it has to end by itself, once it has been told to.
        say: Takes a line for a person.

    Attributes:
        status: Its exit status as a shell gives it. None if it was not started, has not ended yet,
            or did not end until it was killed.
        refusal: Why it could not be started; None if it could.
    """

    def __init__(self, grace: float, say: Callable[[str], object]) -> None:
        self.status: int | None = None
        self.refusal: OSError | None = None
        self._grace = grace
        self._say = say
        self._process: trio.Process | None = None
        self._told: list[int] = []
        self._untold = trio.CancelScope()

    def tell(self, number: int) -> None:
        """Pass a signal on, whether it runs or not. With the first one its grace begins."""
        self._told.append(number)
        if self._process is not None:
            self._send(self._process, number)
        self._untold.cancel()

    async def run(self, argv: Sequence[str], env: Mapping[str, str], stderr: int | None) -> None:
        """Start it, unless it has been told to end, and wait for its end.

        If this is cancelled, the command is ended first.

        Args:
            argv: The command and its arguments.
            env: Its environment.
            stderr: The descriptor that is to be its stderr; None for ours.
        """
        if self._told:
            return
        try:
            # Descriptors that were handed to us are handed on, as by env(1). Ours close themselves.
            process = await trio.lowlevel.open_process(
                argv, env=env, stderr=stderr, close_fds=False
            )
        except OSError as error:
            self.refusal = error
        else:
            await self._wait(process)

    async def _wait(self, process: trio.Process) -> None:
        self._process = process
        for number in self._told:  # meanwhile
            self._send(process, number)
        try:
            with self._untold:
                await process.wait()
        finally:
            if process.returncode is None and not self._told:
                self.tell(signal.SIGTERM)
            await self._end(process)

    async def _end(self, process: trio.Process) -> None:
        with trio.move_on_after(self._grace, shield=True) as grace:
            await process.wait()
        if grace.cancelled_caught:
            self._send(process, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
        if not (grace.cancelled_caught and process.returncode == -signal.SIGKILL):
            self.status = _status(process.returncode or 0)

    def _send(self, process: trio.Process, number: int) -> None:
        try:
            process.send_signal(number)
        except PermissionError as error:  # say, because it is sudo
            name = signal.Signals(number).name
            self._say(f"nitrohb: cannot send {name} to the command: {error.strerror}")


def _status(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode
