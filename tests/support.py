# SPDX-License-Identifier: Apache-2.0
"""Helpers for several tests: clients, peers with CIDs, and servers whose events are recorded."""

import contextlib
import os
import resource
import socket
import subprocess
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from nitrohb import Event, Listener, UnixAddress, VsockAddress, open_listeners, serve_heartbeat

B7 = b"\xb7"

settled = wait_all_tasks_blocked


class Client:
    """An enclave as a plain socket, controlled step by step inside a trio run."""

    def __init__(self, path: Path | str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.connect(str(path))
        except OSError:
            self.sock.close()
            raise
        self.sock.setblocking(False)
        self.got = b""
        self.ended = False

    def send(self, data: bytes) -> None:
        """Send as much as there is room for, also if the server has closed."""
        with contextlib.suppress(OSError):
            self.sock.send(data)

    def half_close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def look(self) -> tuple[bytes, bool]:
        """Return all bytes so far, and whether the server has closed."""
        while not self.ended:
            try:
                data = self.sock.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.got += data
            self.ended = not data
        return self.got, self.ended

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def beat(client: Client, data: bytes = B7) -> None:
    """Act as an enclave that boots: send, read the echo, and then the end."""
    with client:
        client.send(data)
        await settled()
        assert client.look() == (data[:1], True)


class PeersWithCids(Listener):
    """A listener on a real Unix socket, whose peers have CIDs: those given to :meth:`connect`."""

    def __init__(self, path: Path, cid: int = 3) -> None:
        (real,) = open_listeners([UnixAddress(str(path))])
        super().__init__(VsockAddress(cid, 9000), real.sock, path=str(path))
        self.has_cids = True
        self.path = path
        self.cids: deque[int] = deque()

    def accept(self) -> tuple[int, VsockAddress | None]:
        conn, _ = self.sock.accept()
        conn.setblocking(False)
        return conn.detach(), VsockAddress(self.cids.popleft(), 1024)

    def connect(self, cid: int) -> Client:
        self.cids.append(cid)
        return Client(self.path)


@asynccontextmanager
async def serving(*listen: Any, **options: Any) -> AsyncGenerator[list[Event]]:
    """Run a server in the background; yields the list of its events."""
    events: list[Event] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_heartbeat, *listen, on_event=events.append, **options))
        yield events
        nursery.cancel_scope.cancel()


@contextmanager
def child(command: Sequence[str], **options: Any) -> Generator[Any]:
    """Start a process, and kill it at the end of the block, also if an assertion fails.

    Yields a :class:`subprocess.Popen`. ``with Popen(...)`` alone would wait for a process that does
    not end.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def descriptors_left(number: int) -> Generator[None]:
    """Limit this process to so many more descriptors while the block runs."""
    free = [os.dup(1) for _ in range(number + 1)]  # the lowest ones that are free
    for fd in free:
        os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def without_capability(*names: str) -> list[str]:
    """A prefix for a command that drops some capabilities of root.

    The command stays root, because another user might not be able to read this Python.
    """
    if os.geteuid() != 0:
        return []
    return ["setpriv", *(f"--bounding-set=-{name}" for name in names), "--"]
