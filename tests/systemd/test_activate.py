# SPDX-License-Identifier: Apache-2.0
"""nitrohb with systemd-socket-activate and systemd-notify."""

import os
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.process import (
    HEARTBEAT,
    NITROHB,
    PATIENCE,
    Script,
    beat,
    connected,
    started,
    wait_for_file,
)

ACTIVATE = ("systemd-socket-activate",)


@contextmanager
def activated(*args: str) -> Generator[Script]:
    """Start systemd-socket-activate, which passes on only PATH unless told otherwise."""
    path = "--setenv=PYTHONPATH" if "PYTHONPATH" in os.environ else "--setenv=PATH"
    with started(path, *args, command=ACTIVATE, stderr=subprocess.DEVNULL) as script:
        yield script


def event_of(script: Script, name: str) -> dict[str, object]:
    """The first event of this name."""
    while (event := script.event())["event"] != name:
        pass
    return event


def test_the_first_connection_starts_it_and_its_byte_is_answered(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with activated("-l", str(one), "-l", str(two), *NITROHB, "--format", "json") as script:
        wait_for_file(two)
        assert beat(one) == HEARTBEAT
        assert event_of(script, "heartbeat")["address"] == f"unix:{one}"
        assert beat(two) == HEARTBEAT
        assert event_of(script, "heartbeat")["address"] == f"unix:{two}"
        assert script.end()[0] == 0


def test_one_socket_by_its_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    names = ("--fdname=first:second", "-l", str(one), "-l", str(two))
    with activated(*names, *NITROHB, "-l", "fd:second", "--format", "json") as script:
        wait_for_file(two)
        assert beat(two) == HEARTBEAT
        assert event_of(script, "heartbeat")["address"] == f"unix:{two}"
        assert script.end()[0] == 0


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_run_is_started_by_it_too(sock: Path) -> None:
    look = 'echo "$NITROHB_LISTEN" "${LISTEN_FDS-none}"; exit 3'
    command = ("run", "--quiet", "--keep", "--", "sh", "-c", look)
    with activated("-l", str(sock), *NITROHB, *command) as script:
        wait_for_file(sock)
        with connected(sock):
            assert script.line() == f"unix:{sock} none\n"
            assert script.end()[0] == 3


def test_systemd_notify_sends_the_same(tmp_path: Path) -> None:
    """nitrohb sends the same datagram as the program of systemd."""
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name)
        ear.settimeout(PATIENCE)
        status = f"waiting for a heartbeat on unix:{tmp_path}/s"
        notify = ("systemd-notify", "--no-block", "--ready", f"--status={status}")
        subprocess.run(notify, env={**os.environ, "NOTIFY_SOCKET": name}, check=True)
        theirs = ear.recv(10_000).decode().rstrip("\n").split("\n")
        args = ("--quiet", "-l", f"unix:{tmp_path}/s")
        with started(*args, env={"NOTIFY_SOCKET": name}) as script:
            ours = ear.recv(10_000).decode().split("\n")
            script.popen.terminate()
            script.end()
    assert {*ours} == {line for line in theirs if not line.startswith("MAINPID=")}
