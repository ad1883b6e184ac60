# SPDX-License-Identifier: Apache-2.0
"""The command of ``nitrohb run``. nitrohb can end it together with all its descendants.

When a process ends, its children get a new parent: the nearest ancestor that is a child subreaper,
or init (PR_SET_CHILD_SUBREAPER of prctl(2)). nitrohb is a child subreaper. So every descendant of
the command becomes a child of nitrohb when its own parents end, whatever its session or process
group is.

nitrohb sends signals to its own children only. The process ID of a child cannot become that of
another process before nitrohb has waited for the child.
"""

import ctypes
import errno
import glob
import os
import shlex
import shutil
import signal
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import trio

from ..errors import described
from ..remedies import descriptor_shortage, is_lack_of_threads

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h

_PEEK: Final = os.WEXITED | os.WNOHANG | os.WNOWAIT  # look at an ended child, and leave it

# After one of these, a status other than 0 means that the signal ended the command.
_ENDING: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

_TERMINAL_KEYS: Final = (signal.SIGINT, signal.SIGQUIT)  # VINTR and VQUIT of termios(3)


class Process:
    """The command, from its start to its end.

    It runs in the process group and session of nitrohb. So it can read from the terminal, job
    control stops and continues it, and Ctrl-C reaches it.

    If the command ends by itself, its descendants keep running: a launcher can start a VMM and
    exit. nitrohb ends the descendants if it ends the command, if the command exits with a status
    other than 0 after SIGHUP, SIGINT or SIGQUIT, and if nitrohb itself ends before the heartbeat.

    (PR_SET_PDEATHSIG of prctl(2) would watch the thread that forked, and trio ends
    that thread early.)
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
        """Whether ``end()`` was called."""
        return self._wait_scope.cancel_called

    def send_signal(self, number: int) -> None:
        """Pass a signal on, unless the terminal has sent it to the command as well.

        If the command has not started yet, it never starts.
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
        """Send SIGTERM. The first call starts the time until SIGKILL."""
        self.send_signal(signal.SIGTERM)
        self._wait_scope.cancel()

    async def run(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        after_success: Callable[[], Awaitable[object]],
    ) -> None:
        """Start the command, unless a signal has arrived for it, and wait for its end.

        If it exits with status 0, also wait for ``after_success()``. A cancellation first ends the
        command and its descendants.
        """
        if self._early_signals:
            return
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))
        try:
            earlier_children = _children()
            # Pass inherited descriptors on, as env(1) does. Those of nitrohb are close-on-exec.
            process = await trio.lowlevel.open_process(argv, env=env, close_fds=False)
        except OSError as error:
            self.start_error = error
        except RuntimeError as error:  # from the thread in which trio forks
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
                # Block them in the idle thread that forked. Otherwise it could take a signal while
                # Python ends, and Python would print a traceback.
                await trio.to_thread.run_sync(
                    signal.pthread_sigmask,
                    signal.SIG_BLOCK,
                    signal.valid_signals(),
                    abandon_on_cancel=True,
                )
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
        """End the command and its descendants; return whether SIGKILL ended the command."""
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
        except PermissionError as error:  # the command can be sudo
            name = signal.Signals(number).name
            why = f"cannot send {name} to the command: {described(error)}"
            self._warn(f"nitrohb: {why}\nEnd it yourself: kill {process.pid}")


class _Reaper:
    """Reaps the children of nitrohb, and ends the descendants of the command."""

    def __init__(
        self, process: trio.Process, earlier_children: set[int], warn: Callable[[str], object]
    ) -> None:
        self._process = process
        self._earlier_children = earlier_children
        self._warn = warn
        self._reaped = trio.lowlevel.ParkingLot()

    @contextmanager
    def reaping(self) -> Generator[None]:
        """Reap all children while the block runs."""
        token = trio.lowlevel.current_trio_token()

        def reap_soon(*_: object) -> None:
            token.run_sync_soon(self._reap, idempotent=True)

        signal.signal(signal.SIGCHLD, reap_soon)
        try:
            self._reap()  # perhaps a child has ended already
            yield
        finally:
            # In C: Python would print a traceback for a signal that arrives during this change.
            signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
            ctypes.CDLL(None).signal(signal.SIGCHLD, None)  # SIG_DFL

    async def end_descendants(self, number: int) -> None:
        """Send a signal to every descendant of the command, and wait until none is left.

        Skip those that nitrohb may not signal.
        """
        signalled = set[int]()
        # Every descendant has an ancestor among the children: no child, no descendant.
        while left := _children() - self._earlier_children:
            refused = {pid for pid in left - signalled if not self._send(pid, number)}
            self._earlier_children |= refused
            signalled = left - refused
            if signalled:
                await self._reaped.park()

    def _send(self, pid: int, number: int) -> bool:
        try:
            os.kill(pid, number)
        except PermissionError as error:  # it can be sudo
            why = f"cannot end process {pid} of the command: {described(error)}"
            self._warn(f"nitrohb: {why}\nEnd it yourself: kill {pid}")
            return False
        return True

    def _reap(self) -> None:
        """Wait for all children that have ended. poll() waits for the command."""
        with suppress(ChildProcessError):  # no children
            while ended := os.waitid(os.P_ALL, 0, _PEEK):
                # Once poll() has reaped the command, any child can be reaped.
                pid = ended.si_pid if self._process.poll() is None else -1
                os.waitpid(pid, os.WNOHANG)
        self._reaped.unpark_all()


def _children() -> set[int]:
    """The children of this process that /proc shows, also those that have ended."""
    return {pid for pid in map(int, glob.iglob("[0-9]*", root_dir="/proc")) if _is_child(pid)}


def _is_child(pid: int) -> bool:
    # Do not ask /proc: it can be that of another PID namespace.
    try:
        os.waitid(os.P_PID, pid, _PEEK)
    except ChildProcessError:
        return False
    return True


def _terminal_has_sent(number: int, pid: int) -> bool:
    """Whether the terminal has sent a signal to another process as well.

    A terminal sends the signals of its keys to the whole foreground process group. A process in
    another group, for example one that timeout(1) started, does not get them. Python does not tell
    the sender. In the foreground, assume the terminal: a second signal could interrupt the
    reaction of the command to the first.
    """
    is_in_our_group = os.getpgid(pid) == os.getpgrp()  # not reaped yet, so its ID is valid
    return number in _TERMINAL_KEYS and is_in_our_group and _is_in_foreground()


def _is_in_foreground() -> bool:
    with suppress(OSError), open("/dev/tty", "rb", buffering=0) as tty:
        return os.tcgetpgrp(tty.fileno()) == os.getpgrp()
    return False


_START_ERRORS: Final = {
    errno.ENOENT: ("there is no such command", "Check its name, or write its absolute path."),
    errno.ENOTDIR: ("a part of its path is not a directory", "Check its path."),
    errno.EACCES: ("this user may not run it", "Make it executable (chmod +x), or name another."),
    errno.ENOEXEC: (
        "this machine cannot run programs of its format",
        "Begin a script with a line that names its interpreter, for example #!/bin/sh.",
    ),
    errno.ENOSYS: (
        "a seccomp profile does not allow new processes",
        "Change the profile of this container, or use nitrohb serve.",
    ),
    errno.EAGAIN: (
        "this user or container has too many processes",
        "Raise the limit (ulimit -u, or the pids limit of the container).",
    ),
}


def why_not_started(command: str, error: OSError) -> str:
    """Return the reason why a command cannot be started, and in a second line the remedy."""
    number = error.errno or 0
    unknown = os.strerror(number), "Check that it starts without nitrohb."
    reason, remedy = _START_ERRORS.get(number, unknown)
    if shortage := descriptor_shortage(number):
        return str(shortage)
    if not command:
        reason, remedy = "its name is empty", "Name a command after --."
    elif number == errno.ENOENT and shutil.which(command):
        reason = "its interpreter (#! line, or ELF loader) does not exist"
        remedy = "Install it, or correct the line. Look for a carriage return at its end."
    elif number == errno.ENOENT and os.path.exists(command):
        reason = "there is no such command in PATH"
        remedy = f"To run the one in this directory, write ./{shlex.quote(command)}"
    elif number == errno.EACCES and os.path.isdir(command):
        reason, remedy = "it is a directory", "Name a program in it."
    return f"{reason} ({errno.errorcode.get(number, 'unknown')})\n{remedy}"
