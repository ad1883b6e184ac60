# SPDX-License-Identifier: Apache-2.0
"""The pieces of ``nitrohb run``, where a process would need perfect timing or other rights."""

import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from nitrohb.cli.child import Child
from nitrohb.cli.console import Console
from nitrohb.cli.environment import environment
from nitrohb.cli.launch import Launch
from nitrohb.cli.stop import Stop
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb import Listener, VsockAddress, open_listeners
from nitrohb.cli.parser import parse
from tests.support import Client

from .process import nitrohb_here

FOR_EVER = ("tail", "-f", "/dev/null")
CONNECTS_AND_STAYS = (
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import os, signal, socket\n"
    "os.fork() or signal.pause()\n"  # the child, which will be left behind
    "sock = socket.socket(socket.AF_UNIX)\n"
    'sock.connect(os.environ["NITROHB_LISTEN"].partition(":")[2])\n'
    "signal.pause()\n",
)


def told(*listeners: Listener) -> list[str]:
    try:
        return environment(listeners)["NITROHB_LISTEN"].splitlines()
    finally:
        for listener in listeners:
            listener.close()


def test_addresses_are_named_by_absolute_but_unresolved_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a symbolic link, .. leads elsewhere."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    monkeypatch.chdir(tmp_path)
    listeners = open_listeners(["unix:link/../s", "hybrid:s:9000", f"hybrid:{tmp_path}/t:9000"])
    listeners.append(Listener(VsockAddress(3, 9000), socket.socket(socket.AF_UNIX)))
    assert told(*listeners) == [
        f"unix:{tmp_path}/link/../s",
        f"hybrid:{tmp_path}/s:9000",
        f"hybrid:{tmp_path}/t:9000",
        "vsock:3:9000",
    ]


def test_path_that_cannot_be_made_absolute_is_named_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in ("d" * 120, "line\nbreak"):
        (tmp_path / directory).mkdir()
        monkeypatch.chdir(tmp_path / directory)
        assert told(*open_listeners(["unix:s"])) == ["unix:s"]


def no_words(line: str) -> NoReturn:
    pytest.fail(f"said {line!r}")


async def run(child: Child, *argv: str) -> None:
    await child.run(argv, os.environ, None)


@pytest.mark.parametrize("why", ["can't start new thread", "another bug"])
async def test_where_no_thread_can_be_started_no_command_can(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trio forks in a thread, which a limit of processes counts, too."""

    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError(why)

    monkeypatch.setattr("trio.lowlevel.open_process", fail)
    child = Child(10, no_words)
    if why == "another bug":
        with pytest.raises(RuntimeError):
            await run(child, "true")
        return
    await run(child, "true")
    assert child.refusal is not None
    assert child.refusal.errno == errno.EAGAIN


async def test_command_that_has_a_signal_before_its_start_is_not_started() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        child = Child(10, no_words)
        child.pass_on(number)
        await run(child, "/no/such/command")
        assert (child.status, child.refusal) == (None, None)


def when_started(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Do something when a command runs, and just before it is known."""
    open_process = trio.lowlevel.open_process

    async def observed(*args: Any, **options: Any) -> trio.Process:
        process = await open_process(*args, **options)
        then()
        return process

    monkeypatch.setattr(trio.lowlevel, "open_process", observed)


async def test_command_that_has_a_signal_while_it_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = Child(1000, no_words)
    when_started(monkeypatch, lambda: child.pass_on(signal.SIGINT))
    await run(child, *FOR_EVER)
    assert child.status == 130


async def test_command_is_told_to_end_when_nobody_waits_for_it_any_more() -> None:
    child = Child(1000, no_words)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, child, *FOR_EVER)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert child.status == 143


@asynccontextmanager
async def running(
    child: Child, shell: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[None]:
    """Let a piece of shell run as a child, from its line on stdout to its end."""
    started = trio.Event()
    when_started(monkeypatch, started.set)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with open(reader, "rb", buffering=0) as ready, open(writer, "wb"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, child, "sh", "-c", f"exec >/dev/fd/{writer}; {shell}")
            await trio.to_thread.run_sync(ready.readline)
            await started.wait()
            await wait_all_tasks_blocked()
            yield


IGNORES_SIGTERM = 'trap "" TERM; echo; exec tail -f /dev/null'


async def test_grace_is_counted_from_the_first_sigterm_and_from_no_other_signal(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    child = Child(10, no_words)
    async with running(child, f'trap "" HUP INT QUIT USR1 USR2; {IGNORES_SIGTERM}', monkeypatch):
        for name in ("HUP", "INT", "QUIT", "USR1", "USR2"):
            child.pass_on(signal.Signals[f"SIG{name}"])
        await trio.sleep(1000)
        assert child.status is None
        began = trio.current_time()
        child.end()
        await trio.sleep(6)
        child.end()
    assert trio.current_time() == pytest.approx(began + 10)
    assert child.status == 143  # it did not end, it was killed


async def test_grace_is_one_for_all_that_stems_from_the_command(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    child = Child(10, no_words)
    async with running(child, f"({IGNORES_SIGTERM}); true", monkeypatch):
        began = trio.current_time()
        child.end()
    assert trio.current_time() == pytest.approx(began + 10)
    assert child.status == 143


async def test_what_is_left_may_have_to_be_killed_though_the_command_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = Child(0.3, no_words)
    async with running(child, f'trap "exit 5" TERM; ({IGNORES_SIGTERM}) & wait', monkeypatch):
        child.end()
    assert child.status == 5


async def test_command_that_may_not_be_signalled_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It may be sudo."""
    said: list[str] = []
    child = Child(10, said.append)
    send_signal = trio.Process.send_signal

    def may_not(self: trio.Process, number: int) -> None:
        if number == signal.SIGKILL:  # the last chance: it ends by itself
            send_signal(self, signal.SIGHUP)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(trio.Process, "send_signal", may_not)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, child, *FOR_EVER)
        await wait_all_tasks_blocked()
        child.end()
    assert child.status == 129
    for line, name in zip(said, ("SIGTERM", "SIGKILL"), strict=True):
        assert name in line
        assert os.strerror(errno.EPERM) in line


async def test_what_is_left_and_may_not_be_signalled_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    refused: list[int] = []
    child = Child(1000, said.append)
    kill = os.kill

    def may_not(pid: int, number: int) -> None:
        refused.append(pid)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    async with running(child, "(echo; exec tail -f /dev/null) & wait; exit 5", monkeypatch):
        child.pass_on(signal.SIGKILL)
        child.end()
        monkeypatch.setattr(os, "kill", may_not)
    (pid,) = refused
    kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)
    assert child.status == 137
    (line,) = said
    assert f"process {pid}, " in line
    assert os.strerror(errno.EPERM) in line


@contextmanager
def launch_of(sock: Path, *args: str) -> Generator[Launch]:
    """A launch whose time limit is 60 s."""
    console = Console()
    yield Launch(open_listeners([f"unix:{sock}"]), 60, parse(["run", *args]), console)
    console.close()


@asynccontextmanager
async def launched(
    sock: Path, *options: str
) -> AsyncGenerator[tuple[Launch, list[int], Callable[[], None]]]:
    """Run a command that ends with status 3 when it is told to.

    Yields the launch, the list for its exit code, and what tells the command to end.
    """
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    result: list[int] = []
    command = ("sh", "-c", f"cat /dev/fd/{reader}; exit 3")

    async def run(launch: Launch) -> None:
        result.append(await launch.run(Stop()))

    with (
        open(reader, "rb"),
        open(writer, "wb") as end,
        launch_of(sock, *options, "--", *command) as it,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, it)
            await wait_all_tasks_blocked()
            yield it, result, end.close


@pytest.mark.parametrize("options", [(), ("--keep",)])
async def test_time_limit_is_for_the_first_heartbeat(
    options: tuple[str, ...], sock: Path, mock_clock: MockClock
) -> None:
    async with launched(sock, "--quiet", *options) as (_, result, end):
        mock_clock.jump(59)
        with Client(sock) as client:
            client.send(b"\xb7")
            await wait_all_tasks_blocked()
            assert client.look()[0] == b"\xb7"
        mock_clock.jump(1000)
        await wait_all_tasks_blocked()
        assert not result
        end()
    assert result == [3]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGHUP, 124), (signal.SIGINT, 124), (signal.SIGTERM, 3)]
)
async def test_time_limit_is_there_until_sigterm(
    number: signal.Signals, status: int, sock: Path, mock_clock: MockClock
) -> None:
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # by the command as well
    async with launched(sock, "--quiet", "--kill-after", "1000") as (launch, result, end):
        mock_clock.jump(59)
        launch.take(number)
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
        assert not result
        end()
    assert result == [status]


async def test_signal_just_before_the_command_is_started(sock: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        with launch_of(sock, "--quiet", "--", "/no/such/command") as launch:
            stop = Stop()
            stop.signal = number
            launch.take(number)
            assert await launch.run(stop) == 128 + number


async def test_timeout_is_told_before_the_command_that_ends_in_its_own_way(
    sock: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    autojump_clock: MockClock,
) -> None:
    ended = trio.Event()

    async def run(*_: object) -> None:
        await ended.wait()

    def end(child: Child) -> None:
        os.write(2, b"told\n")
        child.status = 5
        ended.set()

    monkeypatch.setattr(Child, "run", run)
    monkeypatch.setattr(Child, "end", end)
    with launch_of(sock, "--", *FOR_EVER) as launch:
        assert await launch.run(Stop()) == 124
    first, second, *_, last = capfd.readouterr().err.splitlines()
    assert "nitro_listening" in first
    assert "within 60 s" in second
    assert last == "told"


async def test_heartbeat_at_the_very_end_of_the_command_counts_and_its_address_closes(
    sock: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def speaks_and_ends(child: Child, *_: object) -> None:
        with Client(sock) as client:
            client.send(b"\xb7")
        child.status = 5

    monkeypatch.setattr(Child, "run", speaks_and_ends)
    with launch_of(sock, "--", *FOR_EVER) as launch:
        assert await launch.run(Stop()) == 5
    names = [line.split()[1] for line in capfd.readouterr().err.splitlines()]
    assert names == ["nitro_listening", "nitro_connected", "nitro_heartbeat", "nitro_done"]


def test_listening_socket_that_breaks_ends_the_command(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Listener) -> NoReturn:
        raise OSError(errno.ENOTSOCK, "broken")

    monkeypatch.setattr(Listener, "accept", broken)
    options = ("--quiet", "-l", f"unix:{sock}")
    code, out, err = nitrohb_here("run", *options, "--", *CONNECTS_AND_STAYS)
    assert (code, out) == (1, "")
    assert err.startswith(f"nitrohb: cannot listen on unix:{sock}: ")
    assert not sock.exists()
    with pytest.raises(ChildProcessError):  # there is none left to wait for
        os.waitpid(-1, os.WNOHANG)


def test_stderr_that_cannot_be_duplicated_is_handed_on_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(_: int) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    console = Console()
    with monkeypatch.context() as exhausted:
        exhausted.setattr(os, "dup", none_left)
        with console.stderr() as stderr:
            assert stderr is None  # the command has ours
    console.close()


def test_what_is_meant_for_us_alone_is_not_in_the_command_s_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}
    ours |= {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
    others = {"LISTEN_ELSE", "WATCHDOG_ELSE"}
    for name in ours | others:
        monkeypatch.setenv(name, "1")
    assert environment([]).keys() & (ours | others) == others
