# SPDX-License-Identifier: Apache-2.0
"""Processes of the benchmark: pinned to a core, timed, and waited for with a deadline."""

import fcntl
import os
import resource
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from tests.uml import launcher

__all__ = ["BenchError", "Cores", "Server", "connect", "prefer", "raise_file_limit", "time_command"]

_DEADLINE = 20.0  # seconds for what takes less than one on a healthy machine
_POLL_PAUSE = 0.0001  # seconds between two attempts to connect: the resolution of a start-up time
_DRAIN_PAUSE = 0.005  # seconds between two reads of a server's output
_CID_LOCAL = 1  # vsock(7); socket has no name for it before Python 3.12
_PIPE_SIZE = 1 << 20  # bytes; more than a server prints between two reads


class BenchError(Exception):
    """A measurement failed. The message says which, and why."""


@dataclass(frozen=True)
class Cores:
    """Which core runs the servers, and which one the clients and the benchmark itself."""

    server: int
    client: int

    @classmethod
    def pick(cls) -> Self:
        """Return the first two cores that this process may use, or the same one twice."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(server=usable[0], client=usable[1 % len(usable)])

    def spawn(
        self, argv: Sequence[str], out: int, err: int, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a process on the core of the servers, in a new process group."""
        os.sched_setaffinity(0, {self.server})
        try:
            return subprocess.Popen(argv, stdin=stdin, stdout=out, stderr=err, process_group=0)
        finally:
            os.sched_setaffinity(0, {self.client})


class Server:
    """A server process that listens; a context manager that ends it.

    Args:
        cores: Where it runs.
        argv: Its command line.
        where: The path of its socket, or ``vsock:PORT``.
        log: The file that gets its stderr.
        drain: Read what it prints.
        stdin: The descriptor that is its stdin.

    Attributes:
        pid: The ID of its process and its process group.
        ready_ms: Milliseconds from exec to the first connection that it accepts.
    """

    def __init__(
        self,
        cores: Cores,
        argv: Sequence[str],
        where: str,
        log: str,
        *,
        drain: bool = False,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self._where = where
        self._log = log
        self._drained = threading.Event()
        with open(log, "wb") as errors:
            self._start = time.monotonic()
            out = subprocess.PIPE if drain else subprocess.DEVNULL
            self._process = cores.spawn(argv, out, errors.fileno(), stdin)
        self.pid = self._process.pid
        try:
            if self._process.stdout is not None:
                self._drain(self._process.stdout.fileno())
            self._await_connection()
        except BaseException:
            self._end()
            raise
        self.ready_ms = self.age_ms

    @property
    def age_ms(self) -> float:
        """The milliseconds since exec."""
        return (time.monotonic() - self._start) * 1000

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def stop(self) -> float:
        """Send SIGTERM, and return the milliseconds until the process has exited."""
        start = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        _await_exit(self._process.pid)
        return (time.monotonic() - start) * 1000

    def failure(self, what: str) -> BenchError:
        """Return an error about this server, with the end of its stderr."""
        with open(self._log, errors="replace") as errors:
            said = errors.read()[-2000:].strip()
        return BenchError(f"{what}\n{said}" if said else what)

    def _await_connection(self) -> None:
        deadline = time.monotonic() + _DEADLINE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self.failure(f"the server ended with {self._process.returncode}")
            try:
                connect(self._where).close()
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
                time.sleep(_POLL_PAUSE)
            else:
                return
        raise self.failure(f"the server did not listen within {_DEADLINE:g} s")

    def _drain(self, pipe: int) -> None:
        _enlarge(pipe)
        threading.Thread(target=_read_all, args=(pipe, self._drained), daemon=True).start()

    def _end(self) -> None:
        # The process group ID cannot be reused before the wait.
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(_DEADLINE)
        if self._process.stdout is not None:
            self._drained.wait(_DEADLINE)
            self._process.stdout.close()


def connect(where: str) -> socket.socket:
    """Connect to a Unix socket, or to ``vsock:PORT`` of the loopback inside User Mode Linux."""
    family: int = socket.AF_UNIX
    target: str | tuple[int, int] = where
    if where.startswith("vsock:"):
        if not launcher.inside():
            raise BenchError("AF_VSOCK is connected only inside User Mode Linux")
        family, target = socket.AF_VSOCK, (_CID_LOCAL, int(where.removeprefix("vsock:")))
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(_DEADLINE)
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def time_command(cores: Cores, argv: Sequence[str]) -> float:
    """Run a command on the core of the servers; return the milliseconds from exec to exit."""
    start = time.monotonic()
    process = cores.spawn(argv, subprocess.DEVNULL, subprocess.DEVNULL)
    try:
        _await_exit(process.pid)
        return (time.monotonic() - start) * 1000
    finally:
        process.kill()
        process.wait(_DEADLINE)


def prefer(pid: int, policy: int = os.SCHED_FIFO) -> None:
    """Give a process priority on its core, if this user has the permission."""
    with suppress(PermissionError):
        os.sched_setscheduler(pid, policy, os.sched_param(int(policy == os.SCHED_FIFO)))


def raise_file_limit() -> int:
    """Raise the descriptor limit of this process to the hard limit, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _await_exit(pid: int) -> None:
    """Wait for the exit of a child without reaping it. Popen.wait(timeout) polls too slowly."""
    pidfd = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        if not waiting.poll(_DEADLINE * 1000):
            raise BenchError(f"a process did not exit within {_DEADLINE:g} s")
    finally:
        os.close(pidfd)


def _enlarge(pipe: int) -> None:
    with suppress(PermissionError):  # beyond the limit of this user: keep the size
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


def _read_all(pipe: int, done: threading.Event) -> None:
    try:
        while os.read(pipe, _PIPE_SIZE):
            time.sleep(_DRAIN_PAUSE)
    finally:
        done.set()
