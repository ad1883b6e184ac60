# SPDX-License-Identifier: Apache-2.0
"""What a service manager gets on a real socket, also one that does not read."""

import errno
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NoReturn
from unittest.mock import Mock

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb import Connected, Done, Heartbeat, Listening, UsageError
from nitrohb.cli.notify import Notifier, find_notifier

from .events import made
from .process import HEARTBEAT, PATIENCE, beat, nitrohb_here, started

LISTENING = made(Listening)
READY, ALIVE = "READY=1\nSTATUS=well", "READY=1\nWATCHDOG=1\nSTATUS=well"
EMFILE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Manager(socket.socket):
    """A service manager."""

    def __init__(self, name: str) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bind(name.replace("@", "\0", 1))
        self.name = name

    def received(self) -> list[str]:
        """The datagrams since the last call."""
        self.setblocking(False)
        messages: list[str] = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self.recv(10_000).decode())
        return messages

    def next(self) -> dict[str, str]:
        """The assignments of the next datagram."""
        self.settimeout(PATIENCE)
        return dict(line.split("=", 1) for line in self.recv(10_000).decode().split("\n"))


@pytest.fixture
def manager(tmp_path: Path) -> Generator[Manager]:
    with Manager(f"{tmp_path}/notify") as manager:
        yield manager


def no_warning(line: str) -> NoReturn:
    pytest.fail(f"warned: {line!r}")


@contextmanager
def environment(**variables: str) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
            patch.delenv(name, raising=False)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@asynccontextmanager
async def notify_manager(
    name: str,
    *,
    warn: Callable[[str], object] = no_warning,
    status: Callable[[], str] = lambda: "well",
    is_ready: Callable[[], bool] = lambda: True,
    **variables: str,
) -> AsyncGenerator[Notifier]:
    """Notify the manager of an environment."""
    with environment(NOTIFY_SOCKET=name, **variables):
        notifier = find_notifier(warn)
    assert notifier is not None
    async with notifier.notifying(status, is_ready):
        yield notifier


# What it gets.


@pytest.mark.parametrize("is_abstract", [False, True])
async def test_ready_status_and_stopping(is_abstract: bool, tmp_path: Path) -> None:
    name = f"@nitrohb-test-{os.getpid()}" if is_abstract else f"{tmp_path}/notify"
    with Manager(name) as manager:
        async with notify_manager(name) as notifier:
            notifier.on_event(made(Connected))  # which changes nothing
            await wait_all_tasks_blocked()
            assert manager.received() == []
            notifier.on_event(LISTENING)
            await wait_all_tasks_blocked()
            assert manager.received() == [READY]
        assert manager.received() == [READY, "STOPPING=1"]


async def test_ready_is_sent_at_once_and_status_at_most_ten_times_a_second(
    manager: Manager, autojump_clock: MockClock
) -> None:
    is_ready = False
    async with notify_manager(manager.name, is_ready=lambda: is_ready) as notifier:
        for event in (LISTENING, made(Heartbeat), made(Done)):
            notifier.on_event(event)
            await trio.sleep(1)
            assert manager.received() == [READY if is_ready else "STATUS=well"]
            is_ready = True
        for _ in range(450):
            notifier.on_event(LISTENING)
            await trio.sleep(0.001)
        assert manager.received() == [READY] * 5


@pytest.mark.parametrize("char", ["\udcff", "é"])
async def test_a_status_is_utf_8_and_fits_into_a_datagram(char: str, manager: Manager) -> None:
    """A status has paths, which can be any bytes. systemd ignores a longer datagram."""
    async with notify_manager(manager.name, status=lambda: 3000 * char) as notifier:
        notifier.on_event(LISTENING)
        await wait_all_tasks_blocked()
        (message,) = manager.received()
    assert re.fullmatch("READY=1\nSTATUS=[é\ufffd]{600,}[.]{3}", message)
    assert len(message.encode()) < 4096


# The watchdog.


@pytest.mark.parametrize(("pid", "count"), [("", 4), ("ours", 4), ("1", 0)])
async def test_watchdog_of_this_process_is_notified_twice_in_its_time(
    pid: str, count: int, manager: Manager, autojump_clock: MockClock
) -> None:
    pid = pid.replace("ours", str(os.getpid()))
    async with notify_manager(manager.name, WATCHDOG_USEC="30000000", WATCHDOG_PID=pid):
        await trio.sleep(59)
        assert manager.received() == [ALIVE] * count


async def test_short_watchdog_is_notified_in_time_during_a_flood(
    manager: Manager, autojump_clock: MockClock
) -> None:
    async with notify_manager(manager.name, WATCHDOG_USEC="40000") as notifier:
        for _ in range(100):
            notifier.on_event(LISTENING)
            await trio.sleep(0.04)
            assert ALIVE in manager.received()


# Service managers that do not read.


def assert_warned(warnings: list[str], why: str, name: str) -> None:
    (line,) = warnings
    assert why in line
    assert f"NOTIFY_SOCKET={name!r}" in line


@pytest.mark.parametrize(("name", "why"), [("n", os.strerror(errno.ENOENT)), ("n" * 108, "long")])
async def test_manager_that_cannot_be_reached_is_warned_of_once_and_tried_again(
    name: str, why: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    warnings: list[str] = []
    name = f"{tmp_path}/{name}"
    async with notify_manager(name, warn=warnings.append) as notifier:
        notifier.on_event(LISTENING)
        await trio.sleep(10)
        if why != "long":
            with Manager(name) as manager:
                await trio.sleep(2)
                assert manager.received() == [READY]
    assert_warned(warnings, why, name)


async def test_manager_that_pauses_gets_the_newest_when_it_reads(
    manager: Manager, autojump_clock: MockClock
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"full", manager.name)
    status = ""
    async with notify_manager(manager.name, status=lambda: status) as notifier:
        for newer in "abc":
            status = newer
            notifier.on_event(LISTENING)
            await trio.sleep(10)
        assert set(manager.received()) == {"full"}
        await trio.sleep(10)
        assert manager.received() == ["READY=1\nSTATUS=c"]


async def test_lack_of_descriptors_is_warned_of(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For systemd, a service that ends before it is ready has failed: it is ready at its end."""
    warnings: list[str] = []
    monkeypatch.setattr("nitrohb.cli.notify.socket.socket", Mock(side_effect=EMFILE))
    async with notify_manager(manager.name, warn=warnings.append):
        pass
    assert_warned(warnings, os.strerror(errno.EMFILE), manager.name)
    async with notify_manager(manager.name, warn=warnings.append):
        monkeypatch.undo()
    assert manager.received() == [READY, "STOPPING=1"]


# The environment.


@pytest.mark.parametrize("variables", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_notify_socket_other_variables_are_ignored(variables: dict[str, str]) -> None:
    with environment(**variables, WATCHDOG_USEC="x"):
        assert find_notifier(no_warning) is None


def test_malformed_variables_are_named() -> None:
    malformed = [("NOTIFY_SOCKET", text) for text in ("x", "/", "@", "vsock:2:1", " /x", "unix:/x")]
    for variable in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        malformed += [(variable, text) for text in ("0", "-1", "x", "01", "9" * 5000)]
    for variable, text in malformed:
        good = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
        with environment(**good | {variable: text}), pytest.raises(UsageError) as caught:
            find_notifier(no_warning)
        assert str(caught.value).startswith(f"{variable} of the environment")
        assert repr(text) in str(caught.value)


# The commands.


def test_serve_is_ready_when_it_listens(manager: Manager, sock: Path) -> None:
    env = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "60000000"}
    with started("--keep", "--quiet", "-l", f"unix:{sock}", env=env) as script:
        waiting = f"waiting for a heartbeat on unix:{sock}"
        assert manager.next() == {"READY": "1", "WATCHDOG": "1", "STATUS": waiting}
        assert beat(sock) == HEARTBEAT
        status = manager.next()["STATUS"]
        assert re.fullmatch(rf"last heartbeat .*Z on unix:{sock}, 1 in all; {waiting}", status)
        script.popen.send_signal(signal.SIGTERM)
        assert script.end() == (143, "", "")
    assert manager.received()[-1] == "STOPPING=1"


def test_run_is_ready_when_the_enclave_has_booted(manager: Manager, sock: Path) -> None:
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", "cat")
    with started(*args, stdin=subprocess.PIPE, env={"NOTIFY_SOCKET": manager.name}) as script:
        assert manager.next() == {"STATUS": f"waiting for a heartbeat on unix:{sock}"}
        assert beat(sock) == HEARTBEAT
        assert manager.next()["READY"] == "1"
        assert script.end() == (0, "", "")
    assert manager.received()[-1] == "STOPPING=1"


@pytest.mark.parametrize("args", [("serve",), ("run", "--", "true")])
def test_commands_refuse_a_malformed_variable(args: tuple[str, ...], sock: Path) -> None:
    with environment(NOTIFY_SOCKET="x"):
        listen = ("-l", f"unix:{sock}")
        code, out, err = nitrohb_here(*args[:1], *listen, *args[1:])
    assert (code, out) == (2, "")
    assert "NOTIFY_SOCKET" in err
    assert not sock.exists()
