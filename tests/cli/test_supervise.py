# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run`` without a process, for perfect timing. test_run.py has the processes."""

import os
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb import (
    Address,
    Event,
    Heartbeat,
    HybridAddress,
    Listening,
    UnixAddress,
    VsockAddress,
    open_listeners,
)
from nitrohb.cli.output import Output
from nitrohb.cli.process import Process
from nitrohb.cli.signals import Signals
from nitrohb.cli.supervise import Supervisor, environment
from nitrohb.server import OnEvent
from tests.support import B7, Client

from .events import made
from .settings import run_settings


class Command(Process):
    """A command that exits with status 3 on request, and ignores signals."""

    def __init__(self, before_exit: Callable[[], object] = lambda: None) -> None:
        super().__init__(grace=10, warn=print)
        self.exit = trio.Event()
        self._before_exit = before_exit

    def send_signal(self, number: int) -> None:
        os.write(2, f"{signal.Signals(number).name}\n".encode())

    async def run(self, argv: Sequence[str], env: Mapping[str, str], after_success: object) -> None:
        await self.exit.wait()
        self._before_exit()
        self.status = 3


@contextmanager
def supervisor_of(process: Process, sock: Path, **fields: Any) -> Generator[Supervisor]:
    """The supervisor of a command, with a time limit of 60 s."""
    (listener,) = open_listeners([f"unix:{sock}"])
    with pytest.MonkeyPatch.context() as patch, closing(Output()) as output, listener:
        patch.setattr("nitrohb.cli.supervise.Process", Mock(return_value=process))
        output.events = output.stderr
        yield Supervisor(run_settings("x", timeout=60, **fields), [listener], output)


@asynccontextmanager
async def supervising(
    command: Command, sock: Path, **fields: Any
) -> AsyncGenerator[tuple[Supervisor, list[int]]]:
    """Supervise a command until its end. Yields the list for the exit code, too."""
    codes: list[int] = []

    async def run() -> None:
        codes.append(await supervisor.run(Signals()))

    with supervisor_of(command, sock, **fields) as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            yield supervisor, codes


# The time limit.


@pytest.mark.parametrize("keep", [False, True])
async def test_time_limit_ends_with_the_first_heartbeat(
    keep: bool, sock: Path, mock_clock: MockClock
) -> None:
    command = Command()
    async with supervising(command, sock, keep=keep) as (_, codes):
        mock_clock.jump(59)
        with Client(sock) as client:
            client.send(B7)
            await wait_all_tasks_blocked()
            assert client.look()[0] == B7
        mock_clock.jump(1000)
        await wait_all_tasks_blocked()
        assert not codes
        command.exit.set()
    assert codes == [3]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 124), (signal.SIGINT, 124), (signal.SIGTERM, 3)]
)
async def test_time_limit_ends_with_sigterm_and_with_no_other_signal(
    number: signal.Signals,
    code: int,
    sock: Path,
    capfd: pytest.CaptureFixture[str],
    mock_clock: MockClock,
) -> None:
    command = Command()
    async with supervising(command, sock) as (supervisor, codes):
        mock_clock.jump(59)
        supervisor.on_signal(number)
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
        assert not codes
        command.exit.set()
    assert codes == [code]
    listening, first, *others = capfd.readouterr().err.splitlines()
    assert "nitro_listening" in listening
    assert first == number.name
    if code == 124:
        assert "within 60 s" in others[0]
        assert others[-1] == "SIGTERM"  # the reason first


# The start and the end of the command.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
async def test_signal_just_before_the_start_prevents_it(number: int, sock: Path) -> None:
    with supervisor_of(Process(10, print), sock) as supervisor:
        signals = Signals()
        signals.signal = number
        supervisor.on_signal(number)
        assert await supervisor.run(signals) == 128 + number


async def test_heartbeat_just_before_the_end_of_the_command_counts(
    sock: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And its address is closed before nitrohb exit_codes."""

    def beat() -> None:
        with Client(sock) as client:
            client.send(B7)

    command = Command(before_exit=beat)
    async with supervising(command, sock) as (_, codes):
        command.exit.set()
    assert codes == [3]
    names = [line.split()[1] for line in capfd.readouterr().err.splitlines()]
    assert names == ["nitro_listening", "nitro_connected", "nitro_heartbeat", "nitro_done"]


# The environment of the command.


def addresses_in_environment(*addresses: Address) -> list[str]:
    return environment(addresses)["NITROHB_LISTEN"].splitlines()


def test_environment_has_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are not resolved: behind a symbolic link, .. leads elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert addresses_in_environment(
        UnixAddress("link/../s"),
        HybridAddress("s", 9000),
        HybridAddress(f"{tmp_path}/t", 9000),
        VsockAddress(3, 9000),
    ) == [
        f"unix:{tmp_path}/link/../s",
        f"hybrid:{tmp_path}/s:9000",
        f"hybrid:{tmp_path}/t:9000",
        "vsock:3:9000",
    ]


@pytest.mark.parametrize("directory", ["d" * 120, "line\nbreak"])
def test_the_environment_keeps_a_relative_path_if_the_absolute_one_is_invalid(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / directory).mkdir()
    monkeypatch.chdir(tmp_path / directory)
    assert addresses_in_environment(UnixAddress("s")) == ["unix:s"]


def test_environment_lacks_what_a_service_manager_set_for_nitrohb(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
    ours |= {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
    others = {"LISTEN_ELSE", "WATCHDOG_ELSE"}
    for name in ours | others:
        monkeypatch.setenv(name, "1")
    assert environment([]).keys() & (ours | others) == others


async def test_run_is_not_ready_before_it_listens(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a watchdog the first datagram is sent before the server has started."""
    ready: list[bool] = []

    class Notifier:
        @asynccontextmanager
        async def notifying(
            self, _status: object, is_ready: Callable[[], bool]
        ) -> AsyncGenerator[None]:
            ready.append(is_ready())
            yield

        def on_event(self, event: Event) -> None: ...

    monkeypatch.setattr("nitrohb.cli.notify.find_notifier", Mock(return_value=Notifier()))
    command = Command()
    command.exit.set()
    with supervisor_of(command, sock) as supervisor:
        await supervisor.run(Signals())
    assert ready == [False]


@pytest.mark.parametrize(("late", "code"), [("one", 124), ("one two", 3)])
async def test_heartbeat_in_the_moment_of_the_time_limit(
    late: str, code: int, sock: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The heartbeat counts. No address is Done then: nitrohb must not wait for that."""

    async def serve_listeners(
        _: object, settings: object, observers: Sequence[OnEvent], *, task_status: Any
    ) -> None:
        def emit(kind: type[Event], path: str) -> None:
            for observe in observers:
                observe(made(kind, address=UnixAddress(path)))

        emit(Listening, "one")
        emit(Listening, "two")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            for path in late.split():
                emit(Heartbeat, path)

    async def exit_later() -> None:
        await trio.sleep(70)
        command.exit.set()

    monkeypatch.setattr("nitrohb.cli.supervise.serve_listeners", serve_listeners)
    command = Command()
    with supervisor_of(command, sock) as supervisor:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exit_later)
            with trio.fail_after(100):
                assert await supervisor.run(Signals()) == code
