# SPDX-License-Identifier: Apache-2.0
"""What a command leaves behind, which becomes ours to wait for, and to end.

When a process ends, its children go to the nearest ancestor that asked for them, a "child
subreaper", or else to init (prctl(2), PR_SET_CHILD_SUBREAPER). We are one, so that whatever stems
from the command comes to us at last, however it was started: another session or process group, or
a double fork, make no difference.

Only our own children are ever sent a signal: a process ID of theirs cannot become another's before
we have waited for it. When one of them ends, its children are ours in turn.
"""

import ctypes
import glob
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

import trio

__all__ = ["Family", "adopt", "children"]

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h

_LOOK: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT  # at what has ended, and leave it as it is


def adopt() -> None:
    """Become the parent of all our descendants whose own parents end, from now on.

    Children do not inherit this. Should the system refuse it, they go to init as ever.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def children() -> set[int]:
    """Our children, as far as /proc names them, with those that nobody has waited for yet."""
    return {pid for pid in map(int, glob.iglob("[0-9]*", root_dir="/proc")) if _is_child(pid)}


def _is_child(pid: int) -> bool:
    # Not by what /proc says of it: that may be the /proc of another PID namespace.
    try:
        os.waitid(os.P_PID, pid, _LOOK)
    except ChildProcessError:
        return False
    return True


class Family:
    """A command that runs, and what it leaves behind.

    Args:
        process: The command.
        others: Children that we had before: they are none of the command's.
        say: Takes a line for a person.
    """

    def __init__(
        self, process: trio.Process, others: set[int], say: Callable[[str], object]
    ) -> None:
        self._process = process
        self._others = others
        self._say = say
        self._change = trio.lowlevel.ParkingLot()

    @contextmanager
    def reaping(self) -> Generator[None]:
        """While the block runs, let no child stay a zombie."""
        token = trio.lowlevel.current_trio_token()

        def reap_soon(*_: object) -> None:
            token.run_sync_soon(self._reap, idempotent=True)

        before = signal.signal(signal.SIGCHLD, reap_soon)
        try:
            self._reap()  # one may have ended before
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)

    async def end(self, number: int) -> None:
        """Send a signal to each process that the command left behind, until none is left.

        One that may not be signalled is left alone.
        """
        told = set[int]()
        # When nobody is found then there is nobody, whatever was going on meanwhile: all that stem
        # from the command have an ancestor among our children, which stays one until it is reaped.
        while left := children() - self._others:
            refused = {pid for pid in left - told if not self._send(pid, number)}
            self._others |= refused
            told = left - refused
            if told:
                await self._change.park()

    def _send(self, pid: int, number: int) -> bool:
        try:
            os.kill(pid, number)
        except PermissionError as error:  # say, because it is sudo
            self._say(f"nitrohb: process {pid}, left by the command, goes on: {error.strerror}")
            return False
        return True

    def _reap(self) -> None:
        """Wait for all children that have ended; for the command only by its own object."""
        with suppress(ChildProcessError):  # there is none any more
            while ended := os.waitid(os.P_ALL, 0, _LOOK):
                # poll() has waited for the command, if that is what has ended.
                pid = ended.si_pid if self._process.poll() is None else -1
                os.waitpid(pid, os.WNOHANG)
        self._change.unpark_all()
