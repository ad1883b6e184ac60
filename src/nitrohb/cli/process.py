# SPDX-License-Identifier: Apache-2.0
"""The command of ``nitrohb run``: neither it nor what it has started is ever left running.

When a process ends, its children go to the nearest ancestor that is a child subreaper, or to init
(prctl(2), PR_SET_CHILD_SUBREAPER). nitrohb is one, so that every descendant of the command becomes
its child in the end, whatever session or process group it is in.

nitrohb sends signals to its own children only. The process ID of a child cannot become that of
another process before nitrohb has waited for it.
"""

import ctypes
import errno
import glob
import os
import shlex
import signal
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import trio

from ..remedies import descriptor_shortage, is_lack_of_threads

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h

_PEEK: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT  # look at what has ended, and leave it

# A command that ends after one of these, and not with status 0, was ended by it.
_ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

_TERMINAL_KEYS: Final = (signal.SIGINT, signal.SIGQUIT)  # VINTR and VQUIT of termios(3)


class Process:
    """The command, from its start to its end.

    It runs in nitrohb's process group and session. So it can read from the terminal, job control
    stops and continues it, and Ctrl-C reaches it.

    If it ends by itself, the processes that it has started go on: a launcher may start a VMM and
    exit. If nitrohb ends it, they are ended, too. So they are if a SIGHUP, SIGINT or SIGQUIT came
    and the command does not exit with status 0, and if nitrohb is ended before the heartbeat.

    (PR_SET_PDEATHSIG of prctl(2) would watch the thread that forked, which trio ends early.)
    """

    def __init__(self, grace: float, warn: Callable[[str], object]) -> None:
        self.status: int | None = None  # as in a shell; None if it has not ended
        self.start_error: OSError | None = None
        self._grace = grace  # seconds from SIGTERM to SIGKILL
        self._warn = warn
        self._process: trio.Process | None = None
        self._early_signals: list[int] = []
        self._was_interrupted = False
        self._ended_by: int | None = None  # the signal that ended nitrohb after the command
        self._wait_scope = trio.CancelScope()

    @property
    def is_ending(self) -> bool:
        """Whether :meth:`end` was called."""
        return self._wait_scope.cancel_called

    def send_signal(self, number: int) -> None:
        """Pass a signal on, unless the terminal has sent it to the command as well.

        A command that has not been started is not started any more.
        """
        self._was_interrupted |= number in _ENDING
        if self._process is None:
            self._early_signals.append(number)
        elif self._process.returncode is not None:
            if number in (signal.SIGTERM, *_ENDING):
                self._ended_by = number
                self._wait_scope.cancel()
        elif not _terminal_has_sent(number, self._process.pid):
            self._send(self._process, number)

    def end(self) -> None:
        """Send SIGTERM. The first call starts the grace."""
        self.send_signal(signal.SIGTERM)
        self._wait_scope.cancel()

    async def run(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        after_success: Callable[[], Awaitable[object]],
    ) -> None:
        """Start the command, unless a signal has arrived for it, and wait for its end.

        If it exits with status 0, wait for ``after_success()``, too. If this is cancelled, the
        command and its descendants are ended first.
        """
        if self._early_signals:
            return
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
        earlier_children = _children()
        try:
            # Inherited descriptors are passed on, as by env(1). nitrohb's own are close-on-exec.
            process = await trio.lowlevel.open_process(argv, env=env, close_fds=False)
        except OSError as error:
            self.start_error = error
        except RuntimeError as error:  # of the thread in which trio forks
            if not is_lack_of_threads(error):
                raise
            self.start_error = OSError(errno.EAGAIN, str(error))
        else:
            reaper = _Reaper(process, earlier_children, self._warn)
            with reaper.reaping():
                await self._wait(process, reaper, after_success)

    async def _wait(
        self,
        process: trio.Process,
        reaper: "_Reaper",
        after_success: Callable[[], Awaitable[object]],
    ) -> None:
        self._process = process
        for number in self._early_signals:
            self._send(process, number)
        was_killed = is_over = False
        try:
            with self._wait_scope:
                if await process.wait() == 0:
                    await after_success()
            is_over = True
        finally:
            if not (is_over or self.is_ending):
                self.end()
            if self.is_ending or (self._was_interrupted and process.returncode != 0):
                was_killed = await self._end(process, reaper)
            code = -signal.SIGTERM if was_killed else process.returncode or -(self._ended_by or 0)
            self.status = 128 - code if code < 0 else code

    async def _end(self, process: trio.Process, reaper: "_Reaper") -> bool:
        """End the command and its descendants; return whether the command had to be killed."""
        with trio.move_on_after(self._grace, shield=True) as grace:
            await process.wait()
            await reaper.end_descendants(signal.SIGTERM)
        if not grace.cancelled_caught:
            return False
        is_late = process.returncode is None
        with trio.CancelScope(shield=True):
            self._send(process, signal.SIGKILL)
            await process.wait()
            await reaper.end_descendants(signal.SIGKILL)
        return is_late and process.returncode == -signal.SIGKILL

    def _send(self, process: trio.Process, number: int) -> None:
        try:
            process.send_signal(number)
        except PermissionError as error:  # the command may be sudo
            name = signal.Signals(number).name
            self._warn(f"nitrohb: cannot send {name} to the command: {error.strerror}")


class _Reaper:
    """Waits for the children of nitrohb that end, and ends the descendants of the command."""

    def __init__(
        self, process: trio.Process, earlier_children: set[int], warn: Callable[[str], object]
    ) -> None:
        self._process = process
        self._earlier_children = earlier_children
        self._warn = warn
        self._reaped = trio.lowlevel.ParkingLot()

    @contextmanager
    def reaping(self) -> Generator[None]:
        """Leave no child a zombie while the block runs."""
        token = trio.lowlevel.current_trio_token()

        def reap_soon(*_: object) -> None:
            token.run_sync_soon(self._reap, idempotent=True)

        signal.signal(signal.SIGCHLD, reap_soon)
        try:
            self._reap()  # a child may have ended before
            yield
        finally:
            # In C, because Python prints a traceback for a signal that arrives while it does this.
            signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
            ctypes.CDLL(None).signal(signal.SIGCHLD, None)  # SIG_DFL

    async def end_descendants(self, number: int) -> None:
        """Send a signal to every descendant of the command, until none is left.

        One that nitrohb may not signal is left alone.
        """
        signalled = set[int]()
        # No child means no descendant: every descendant has an ancestor among the children.
        while left := _children() - self._earlier_children:
            refused = {pid for pid in left - signalled if not self._send(pid, number)}
            self._earlier_children |= refused
            signalled = left - refused
            if signalled:
                await self._reaped.park()

    def _send(self, pid: int, number: int) -> bool:
        try:
            os.kill(pid, number)
        except PermissionError as error:  # it may be sudo
            self._warn(f"nitrohb: cannot end process {pid} of the command: {error.strerror}")
            return False
        return True

    def _reap(self) -> None:
        """Wait for all children that have ended; for the command only by its own object."""
        with suppress(ChildProcessError):  # there are no children
            while ended := os.waitid(os.P_ALL, 0, _PEEK):
                # poll() has waited for the command, if that is what has ended.
                pid = ended.si_pid if self._process.poll() is None else -1
                os.waitpid(pid, os.WNOHANG)
        self._reaped.unpark_all()


def _children() -> set[int]:
    """The children of this process, as far as /proc shows them, with those that have ended."""
    return {pid for pid in map(int, glob.iglob("[0-9]*", root_dir="/proc")) if _is_child(pid)}


def _is_child(pid: int) -> bool:
    # /proc could tell it, but may be that of another PID namespace.
    try:
        os.waitid(os.P_PID, pid, _PEEK)
    except ChildProcessError:
        return False
    return True


def _terminal_has_sent(number: int, pid: int) -> bool:
    """Whether a signal that came to nitrohb has come to another process, too.

    A terminal sends the signals of its keys to the whole process group in the foreground. A process
    in another group, such as one started by timeout(1), has not had it. A signal does not say where
    it comes from. In the foreground assume the terminal: a second signal could interrupt what the
    command does about the first.
    """
    is_in_our_group = os.getpgid(pid) == os.getpgrp()  # it has not been waited for: it is there
    return number in _TERMINAL_KEYS and is_in_our_group and _is_in_foreground()


def _is_in_foreground() -> bool:
    with suppress(OSError), open("/dev/tty", "rb", buffering=0) as tty:
        return os.tcgetpgrp(tty.fileno()) == os.getpgrp()
    return False


_START_ERRORS: Final = {
    errno.ENOENT: ("there is no such command", "Check its name, or write its whole path."),
    errno.ENOTDIR: ("a part of its path is not a directory", "Check its path."),
    errno.EACCES: ("this user may not run it", "Make it executable (chmod +x), or name another."),
    errno.ENOEXEC: (
        "it is not a program that this machine can run",
        "Begin a script with the line that names its interpreter, such as #!/bin/sh.",
    ),
    errno.EAGAIN: (
        "this user, or this container, has too many processes",
        "Raise the limit (ulimit -u, or the container's limit of pids).",
    ),
}


def why_not_started(command: str, error: OSError) -> str:
    """Why a command cannot be started, and in another line what helps."""
    number = error.errno or 0
    reason, remedy = _START_ERRORS.get(number, (os.strerror(number), "Try the command by itself."))
    if shortage := descriptor_shortage(number):
        return str(shortage)
    if not command:
        reason, remedy = "its name is empty", "Name a command after --."
    elif number == errno.ENOENT and os.path.exists(command):
        if "/" in command:
            reason = "the interpreter that its first line (#!) names does not exist"
            remedy = "Install it, or correct the line. Look for a carriage return at its end."
        else:
            reason = "there is no such command in PATH"
            remedy = f"For the one in this directory write ./{shlex.quote(command)}"
    elif number == errno.EACCES and os.path.isdir(command):
        reason, remedy = "it is a directory", "Name a program in it."
    return f"{reason} ({errno.errorcode.get(number, 'unknown')})\n{remedy}"
