# SPDX-License-Identifier: Apache-2.0
"""What a service manager is told, on a real socket; and one that does not listen."""

import errno
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from unittest.mock import Mock

import pytest
import trio
from nitrohb.cli.manager import Manager, find_manager
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb import (
    Address,
    Connected,
    Done,
    Heartbeat,
    Listening,
    UnixAddress,
    UsageError,
    VsockAddress,
)
from nitrohb.cli.report import Reporter

from .process import HEARTBEAT, PATIENCE, beat, nitrohb_here, started

WHERE = UnixAddress("/run/vm")
NOW = datetime(2026, 11, 25, 14, 2, 12, tzinfo=UTC)
LISTENING = Listening(address=WHERE, time=NOW)
EMFILE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Ear:
    """The manager's end: a datagram socket, and what came on it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(name.replace("@", "\0", 1))

    def heard(self) -> list[str]:
        """What has come since the last time, a string for each datagram."""
        self.sock.setblocking(False)
        messages: list[str] = []
        while True:
            try:
                messages.append(self.sock.recv(10_000).decode())
            except BlockingIOError:
                return messages

    def next(self) -> dict[str, str]:
        """The assignments of the next datagram."""
        self.sock.settimeout(PATIENCE)
        return dict(line.split("=", 1) for line in self.sock.recv(10_000).decode().split("\n"))


@contextmanager
def hearing(name: str) -> Generator[Ear]:
    ear = Ear(name)
    with ear.sock:
        yield ear


@pytest.fixture
def ear(tmp_path: Path) -> Generator[Ear]:
    with hearing(f"{tmp_path}/notify") as ear:
        yield ear


def silent(line: str) -> NoReturn:
    raise AssertionError(line)


def manager(
    monkeypatch: pytest.MonkeyPatch, name: str, say: Callable[[str], object] = silent, **rest: str
) -> Manager:
    """The manager of an environment."""
    for variable, value in {"NOTIFY_SOCKET": name, **rest}.items():
        monkeypatch.setenv(variable, value)
    found = find_manager(say)
    assert found is not None
    return found


@asynccontextmanager
async def informed(it: Manager, status: str = "well") -> AsyncGenerator[None]:
    async with it.informed(lambda: status, lambda: True):
        yield


# --- what it is told ------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
async def test_ready_status_and_the_end(
    abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"@nitrohb-test-{os.getpid()}" if abstract else f"{tmp_path}/notify"
    with hearing(name) as ear:
        it = manager(monkeypatch, name)
        async with informed(it):
            it(Connected(address=WHERE, time=NOW, peer=None))  # which is no news
            await wait_all_tasks_blocked()
            assert ear.heard() == []
            it(LISTENING)
            await wait_all_tasks_blocked()
            assert ear.heard() == ["READY=1\nSTATUS=well"]
        assert ear.heard() == ["STOPPING=1"]


async def test_who_ends_at_once_was_ready_before(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that ends without having been ready has failed, in the manager's eyes."""
    it = manager(monkeypatch, ear.name)
    with pytest.RaisesGroup(ZeroDivisionError):
        async with informed(it):
            it(LISTENING)
            raise ZeroDivisionError
    assert ear.heard() == ["READY=1\nSTATUS=well", "STOPPING=1"]


async def test_ready_comes_once_and_not_before_it_is_so(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    it = manager(monkeypatch, ear.name)
    states = iter([False, True])
    async with it.informed(lambda: "well", lambda: next(states)):
        for _ in range(3):
            it(LISTENING)
            await trio.sleep(1)
    assert ear.heard() == ["STATUS=well", "READY=1\nSTATUS=well", "STATUS=well", "STOPPING=1"]


async def test_a_flood_of_heartbeats_is_ten_datagrams_a_second(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    it = manager(monkeypatch, ear.name)
    async with informed(it):
        for _ in range(450):
            it(LISTENING)
            await trio.sleep(0.001)
        assert len(ear.heard()) == 5


async def test_a_status_is_utf_8_and_fits(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    it = manager(monkeypatch, ear.name)
    async with informed(it, "\udcff" + 3000 * "é"):
        it(LISTENING)
        await wait_all_tasks_blocked()
        (message,) = ear.heard()
    _, status = message.split("\n")
    assert status.startswith("STATUS=\ufffdé")
    assert status.endswith("é\ufffd...")
    assert len(message.encode()) < 4096


async def test_signs_of_life_come_twice_in_the_watchdog_s_time(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    it = manager(monkeypatch, ear.name, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    async with informed(it):
        await trio.sleep(59)
        assert ear.heard() == ["WATCHDOG=1"] * 4
        it(LISTENING)
        await trio.sleep(2)
        assert ear.heard() == ["READY=1\nSTATUS=well", "WATCHDOG=1"]


async def test_a_short_watchdog_has_its_signs_in_time_however_many_heartbeats_come(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async with informed(it := manager(monkeypatch, ear.name, WATCHDOG_USEC="40000")):
        for _ in range(100):
            it(LISTENING)
            await trio.sleep(0.04)
            assert any("WATCHDOG=1" in message for message in ear.heard())


async def test_a_loop_that_hangs_gives_no_sign(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    it = manager(monkeypatch, ear.name, WATCHDOG_USEC="2000")
    async with informed(it):
        await wait_all_tasks_blocked()
        ear.heard()
        time.sleep(0.02)  # that is what hangs
        assert ear.heard() == []


async def test_a_watchdog_of_another_process_is_not_ours(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    it = manager(monkeypatch, ear.name, WATCHDOG_USEC="2", WATCHDOG_PID="1")
    async with informed(it):
        await trio.sleep(10)
        assert ear.heard() == []


# --- a manager that does not listen ---------------------------------------------------------------


def assert_complained(said: list[str], why: int | str, name: str) -> None:
    (line,) = said
    assert (os.strerror(why) if isinstance(why, int) else why) in line
    assert f"(NOTIFY_SOCKET is {name!r})" in line


async def test_a_manager_that_is_not_there_is_complained_of_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, autojump_clock: MockClock
) -> None:
    said: list[str] = []
    it = manager(monkeypatch, f"{tmp_path}/notify", said.append)
    async with informed(it):
        it(LISTENING)
        await trio.sleep(10)
        assert_complained(said, errno.ENOENT, f"{tmp_path}/notify")
        with hearing(f"{tmp_path}/notify") as ear:
            await trio.sleep(2)
            assert ear.heard() == ["READY=1\nSTATUS=well"]


async def test_a_manager_that_takes_nothing_hears_the_newest_when_it_does(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"full", ear.name.replace("@", "\0", 1))
        statuses = iter("abcd")
        it = manager(monkeypatch, ear.name, WATCHDOG_USEC="60000000")
        async with it.informed(lambda: next(statuses), lambda: True):
            for _ in range(4):
                it(LISTENING)
                await trio.sleep(10)
            assert set(ear.heard()) == {"full"}
            await trio.sleep(10)
            assert ear.heard() == ["WATCHDOG=1\nREADY=1\nSTATUS=d"]


@pytest.mark.parametrize("why", ["a name that is too long", "no descriptor is left"])
async def test_a_manager_that_can_never_be_told(
    why: str, ear: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    name = "/" + 200 * "x" if "name" in why else ear.name
    with monkeypatch.context() as exhausted:
        if "descriptor" in why:
            exhausted.setattr("nitrohb.cli.manager.socket.socket", Mock(side_effect=EMFILE))
        async with informed(manager(exhausted, name, said.append)):
            pass
    assert_complained(said, "too long" if "name" in why else errno.EMFILE, name)


async def test_no_descriptor_is_left_for_it_for_a_while(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    said: list[str] = []
    it = manager(monkeypatch, ear.name, said.append)
    async with informed(it):
        it(LISTENING)
        with monkeypatch.context() as exhausted:
            exhausted.setattr("nitrohb.cli.manager.socket.socket", Mock(side_effect=EMFILE))
            await wait_all_tasks_blocked()
        assert len(said) == 1
        await trio.sleep(2)
        assert ear.heard() == ["READY=1\nSTATUS=well"]


# --- the environment ------------------------------------------------------------------------------


def test_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "x")
    assert find_manager(silent) is None
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    assert find_manager(silent) is None


def test_variables_that_cannot_be_understood_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [("NOTIFY_SOCKET", text) for text in ("x", "/", "@", "vsock:2:1", " /x", "unix:/x")]
    for variable in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        wrong += [(variable, text) for text in ("0", "-1", "x", "01", "9" * 5000)]
    for variable, text in wrong:
        right = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}
        for name, value in (right | {variable: text}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError) as caught:
            find_manager(silent)
        assert str(caught.value).startswith(f"{variable} of the environment is {text!r}: expected")


def test_the_status_has_the_last_heartbeat_the_number_of_all_and_what_is_next() -> None:
    reporter = Reporter(lambda event: None)
    addresses: list[Address] = [WHERE, VsockAddress(3, 9000)]
    for address in addresses:
        reporter(Listening(address=address, time=NOW))
    assert reporter.listening() == 2
    waiting = "waiting for a heartbeat on unix:/run/vm, vsock:3:9000"
    assert reporter.status() == waiting
    for count, address in enumerate(addresses, 1):
        peer = VsockAddress(16, 1024) if count == 2 else None
        reporter(Connected(address=address, time=NOW, peer=peer))
        heartbeat = Heartbeat(
            address=address, time=NOW, peer=peer, listening_seconds=1, echo_seconds=1, echoed=True
        )
        reporter(heartbeat)
        cid = " from CID 16" if peer else ""
        last = f"last heartbeat 2026-11-25 14:02:12Z{cid} on {address}, {count} in all"
        assert reporter.status() == f"{last}; {waiting}"
    for address in addresses:
        reporter(Done(address=address, time=NOW))
    assert reporter.status().endswith(", 2 in all; waiting for nothing more")


# --- the commands ---------------------------------------------------------------------------------


def test_serve_is_ready_when_it_listens(ear: Ear, sock: Path) -> None:
    env = {"NOTIFY_SOCKET": ear.name, "WATCHDOG_USEC": "60000000"}
    with started("--keep", "--quiet", "-l", f"unix:{sock}", env=env) as script:
        assert ear.next() == {
            "WATCHDOG": "1",
            "READY": "1",
            "STATUS": f"waiting for a heartbeat on unix:{sock}",
        }
        assert beat(sock) == HEARTBEAT
        status = ear.next()["STATUS"]
        assert status.startswith("last heartbeat ")
        assert f"Z on unix:{sock}, 1 in all; waiting for a heartbeat on unix:{sock}" in status
        script.popen.send_signal(signal.SIGTERM)
        assert ear.next() == {"STOPPING": "1"}
        assert script.end() == (143, "", "")


def test_run_is_ready_when_the_enclave_has_booted(ear: Ear, sock: Path) -> None:
    env = {"NOTIFY_SOCKET": ear.name}
    command = ("sh", "-c", 'read x; echo "$NOTIFY_SOCKET"')
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--", *command)
    reader, writer = os.pipe()
    with started(*args, stdin=reader, env=env) as script:
        os.close(reader)
        assert ear.next() == {"STATUS": f"waiting for a heartbeat on unix:{sock}"}
        assert beat(sock) == HEARTBEAT
        assert ear.next()["READY"] == "1"
        os.close(writer)
        assert script.end() == (0, "\n", "")
    assert ear.heard()[-1] == "STOPPING=1"


def test_serve_goes_on_without_a_manager(
    tmp_path: Path, sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/nobody")
    code, out, err = nitrohb_here("--quiet", "-l", f"unix:{sock}", "--timeout", "0.1")
    assert (code, out) == (124, "")
    assert_complained(err.splitlines()[:1], errno.ENOENT, f"{tmp_path}/nobody")


def test_commands_refuse_a_variable_that_cannot_be_understood(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "x")
    listen = ("-l", f"unix:{sock}")
    for args in (listen, ("run", *listen, "--", "true")):
        code, out, err = nitrohb_here(*args)
        assert (code, out) == (2, "")
        assert "NOTIFY_SOCKET" in err
        assert not sock.exists()
