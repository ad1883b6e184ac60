# SPDX-License-Identifier: Apache-2.0
"""The descriptor in reserve, with a real limit: no other descriptor is free."""

import errno
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from trio.testing import MockClock

from nitrohb import NitrohbError, serve_heartbeat
from tests.support import B7, Client, child, descriptors_left, names, serving, settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


def connect(path: Path, number: int, stack: ExitStack) -> list[Client]:
    """Connect clients until no descriptor is left."""
    return [stack.enter_context(Client(path)) for _ in range(number)]


async def test_heartbeats_are_answered_and_one_warning_gives_the_reason(
    path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    with ExitStack() as stack:
        async with serving(f"unix:{path}", keep=True) as events:
            clients = connect(path, 3, stack)
            for client in clients:
                client.send(B7)
            with descriptors_left(0):
                await settled()
                assert [client.look() for client in clients] == [(B7, True)] * 3
                with pytest.raises(OSError, match="Too many open files"):
                    os.dup(1)  # the descriptor is in reserve again
    assert names(events) == ["listening", *["connected", "heartbeat"] * 3]
    (message,) = caplog.messages
    assert f"unix:{path}" in message
    assert "(EMFILE)" in message
    assert "ulimit -n" in message


# A server in a program that has loaded nothing else, and a flood of one peer.
FLOODED = """
import resource, sys
from nitrohb import serve_in_thread
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
with serve_in_thread(f"unix:{sys.argv[1]}", keep=True) as server:
    print("listening", flush=True)
    print(server.wait_heartbeat(timeout=60).echoed)
"""


def test_a_server_in_another_program_survives_a_flood(path: Path) -> None:
    """To warn, it must not import anything: there is no descriptor for that."""
    command = [sys.executable, "-c", FLOODED, str(path)]
    with child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"listening\n"
        with ExitStack() as stack:
            clients = connect(path, 100, stack)
            clients[-1].send(B7)
            out, err = program.communicate(timeout=60)
    assert (program.returncode, out) == (0, b"True\n")
    assert b"(EMFILE)" in err


async def test_a_late_byte_in_the_last_descriptor_is_answered(
    path: Path, autojump_clock: MockClock
) -> None:
    """accept(2) fails although no connection waits, so none is evicted."""
    with ExitStack() as stack:
        async with serving(f"unix:{path}", keep=True):
            (late,) = connect(path, 1, stack)
            with descriptors_left(0):
                await settled()
                assert late.look() == (b"", False)
                late.send(B7)
                await settled()
                assert late.look() == (B7, True)


async def test_a_silent_connection_in_the_last_descriptor_makes_room(
    path: Path, autojump_clock: MockClock
) -> None:
    with ExitStack() as stack:
        async with serving(f"unix:{path}", keep=True) as events:
            silent, enclave = connect(path, 2, stack)
            enclave.send(B7)
            with descriptors_left(0):
                await settled()
                assert silent.look() == (b"", True)
                assert enclave.look() == (B7, True)
    assert names(events)[1:] == ["connected", "evicted", "connected", "heartbeat"]


async def test_another_thread_takes_the_descriptor_when_a_connection_closes(
    path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then heartbeats wait until it is free again."""

    def fail(_: int) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with ExitStack() as stack:
        async with serving(f"unix:{path}", keep=True):
            (first,) = connect(path, 1, stack)
            second = stack.enter_context(socket.socket(socket.AF_UNIX))
            first.send(B7)
            with descriptors_left(0):
                monkeypatch.setattr(os, "eventfd", fail)
                await settled()
                assert first.look() == (B7, True)
                taken = os.dup(1)
                second.connect(str(path))
                second.send(B7)
                second.setblocking(False)
                await trio.sleep(1)
                with pytest.raises(BlockingIOError):
                    second.recv(1)
                os.close(taken)
                await trio.sleep(1)
                assert second.recv(2) == B7


async def test_without_a_descriptor_to_keep_it_does_not_start() -> None:
    with descriptors_left(0), pytest.raises(NitrohbError, match=r"EMFILE.*\n.*ulimit -n"):
        await serve_heartbeat("none")
