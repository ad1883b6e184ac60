# SPDX-License-Identifier: Apache-2.0
"""Processes of the console script, and plain sockets to talk to them. Every wait has a limit."""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from inspect import getsource
from pathlib import Path
from typing import IO, Any

from nitrohb.cli import main
from tests.support import child

PATIENCE = 30.0  # seconds: a slow machine needs some of them to start Python

# Show warnings, for example about an open socket, on stderr.
NITROHB = (sys.executable, "-W", "error", "-m", "nitrohb")

HEARTBEAT = b"\xb7"


class Script:
    """A running nitrohb."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self.popen = popen

    def line(self) -> str:
        """The next line of stdout."""
        return _line(self.popen.stdout, "stdout")

    def error_line(self) -> str:
        """The next line of stderr."""
        return _line(self.popen.stderr, "stderr")

    def event(self) -> dict[str, Any]:
        """The next line of stdout, as JSON."""
        event: dict[str, Any] = json.loads(self.line())
        return event

    def error_event(self) -> str:
        """The name of the event in the next line of stderr, which is JSON."""
        return str(json.loads(self.error_line())["event"])

    def end(self) -> tuple[int, str, str]:
        """Wait for the end. Returns the exit code, and the rest of stdout and stderr."""
        out, err = self.popen.communicate(timeout=PATIENCE)
        return self.popen.returncode, (out or b"").decode(), (err or b"").decode()


def _line(stream: IO[bytes] | None, name: str) -> str:
    assert stream is not None
    return read_until(stream.fileno(), lambda read: read.endswith(b"\n"), f"a line of {name}")


def clean_environment() -> dict[str, str]:
    """That of this process, but with buffered output, so that a test can see it lost."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@contextmanager
def started(
    *args: str,
    command: tuple[str, ...] = NITROHB,
    stdin: int | None = None,
    stdout: int | None = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
    pass_fds: tuple[int, ...] = (),
    new_session: bool = True,
    umask: int = -1,
    env: dict[str, str] | None = None,
) -> Generator[Script]:
    """Start nitrohb, and kill it at the end if it still runs.

    A new session keeps it from the terminal of the person who runs the tests.
    """
    with child(
        [*command, *args],
        bufsize=0,  # line() polls the pipe, so no line may be in a buffer
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=pass_fds,
        start_new_session=new_session,
        umask=umask,
        env=clean_environment() | (env or {}),
    ) as popen:
        yield Script(popen)


def nitrohb(*args: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run nitrohb to its end. Returns its exit code, stdout and stderr."""
    with started(*args, env=env) as script:
        return script.end()


def nitrohb_here(*args: str) -> tuple[int, str, str]:
    """Run nitrohb in this process, with files as stdout and stderr."""
    with open(os.memfd_create("out"), "w+") as out, open(os.memfd_create("err"), "w+") as err:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main(args)
            except SystemExit as end:  # how argparse ends
                code = int(end.code or 0)
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def redirected(how: str) -> tuple[str, ...]:
    """The command with shell redirections."""
    return ("sh", "-c", f'exec "$@" {how}', "sh", *NITROHB)


def read_until(fd: int, enough: Callable[[bytes], bool], what: str = "") -> str:
    """Read bytes until there are enough, or the end. After the time limit, fail with ``what``."""
    read = b""
    until = time.monotonic() + PATIENCE
    while not enough(read):
        readable, _, _ = select.select([fd], [], [], max(0, until - time.monotonic()))
        assert readable, f"waited {PATIENCE:g} s for {what or _source(enough)}, got {read!r}"
        try:
            byte = os.read(fd, 1)
        except OSError:  # EIO: how a terminal ends
            byte = b""
        if not byte:
            break
        read += byte
    return read.decode()


def wait_for(is_so: Callable[[], bool], what: str = "") -> None:
    """Poll until a condition is true. After the time limit, fail with ``what``."""
    until = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < until, f"waited {PATIENCE:g} s for {what or _source(is_so)}"
        time.sleep(0.001)


def _source(function: Callable[..., bool]) -> str:
    """Describe a function: its source, or the object that it is bound to."""
    return repr(function) if hasattr(function, "__self__") else getsource(function).strip()


def wait_for_file(path: Path) -> None:
    """Wait until a socket file exists."""
    wait_for(path.exists, f"the file {path}")


@contextmanager
def _awaiting(what: str) -> Generator[None]:
    """Name what the test waited for if a socket times out."""
    try:
        yield
    except TimeoutError as late:
        late.add_note(f"waited {PATIENCE:g} s for {what}")
        raise


@contextmanager
def connected(path: Path) -> Generator[socket.socket]:
    """Connect to a path as soon as it accepts connections."""
    with socket.socket(socket.AF_UNIX) as client, _awaiting(f"the server on {path}"):
        client.settimeout(PATIENCE)
        wait_for(lambda: client.connect_ex(str(path)) == 0, f"a server on {path}")
        yield client


def beat(path: Path, byte: bytes = HEARTBEAT) -> bytes:
    """Send a byte as soon as the path accepts it, and return the answer; ``b""`` is the end."""
    with connected(path) as client:
        client.sendall(byte)
        return client.recv(2)


@contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    """Listen on a path. The socket file stays."""
    with socket.socket(socket.AF_UNIX) as server, _awaiting(f"a client on {path}"):
        server.settimeout(PATIENCE)
        server.bind(str(path))
        server.listen()
        yield server
