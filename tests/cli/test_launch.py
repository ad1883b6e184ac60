# SPDX-License-Identifier: Apache-2.0
"""The pieces of ``nitrohb run``, where a process would need perfect timing or other rights."""

import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb import Listener, VsockAddress, open_listeners
from nitrohb.cli.child import Child
from nitrohb.cli.console import Console
from nitrohb.cli.environment import environment
from nitrohb.cli.launch import Launch
from nitrohb.cli.parser import parse
from nitrohb.cli.stop import Stop
from tests.support import Client

from .process import nitrohb_here

FOR_EVER = ("tail", "-f", "/dev/null")
UNTIL_EOF = ("sh", "-c", 'cat "/dev/fd/$END"; exit 3')
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


def told(*listeners: Listener) -> str:
    try:
        return environment(listeners)["NITROHB_LISTEN"]
    finally:
        for listener in listeners:
            listener.close()


def test_address_without_a_path_is_named_as_it_is() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        assert told(Listener(VsockAddress(3, 9000), sock)) == "vsock:3:9000"


def test_path_is_absolute_but_not_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a symbolic link, .. leads elsewhere."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    monkeypatch.chdir(tmp_path)
    listeners = open_listeners(["unix:link/../s", "hybrid:s:9000", f"hybrid:{tmp_path}/t:9000"])
    assert told(*listeners).splitlines() == [
        f"unix:{tmp_path}/link/../s",
        f"hybrid:{tmp_path}/s:9000",
        f"hybrid:{tmp_path}/t:9000",
    ]


@pytest.mark.parametrize("directory", ["d" * 120, "line\nbreak"])
def test_path_that_cannot_be_made_absolute_is_named_as_it_is(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / directory).mkdir()
    monkeypatch.chdir(tmp_path / directory)
    assert told(*open_listeners(["unix:s"])) == "unix:s"


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
            await child.run(["true"], {}, None)
        return
    await child.run(["true"], {}, None)
    assert child.refusal is not None
    assert child.refusal.errno == errno.EAGAIN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
async def test_command_that_has_a_signal_before_its_start_is_not_started(number: int) -> None:
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


async def test_grace_is_counted_from_the_first_sigterm(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    child = Child(10, no_words)
    async with running(child, IGNORES_SIGTERM, monkeypatch):
        began = trio.current_time()
        child.end()
        await trio.sleep(6)
        child.end()
    assert trio.current_time() == pytest.approx(began + 10)
    assert child.status == 143  # it did not end, it was killed


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]
)
async def test_no_grace_begins_with_another_signal(
    number: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    child = Child(10, no_words)
    ignores = 'trap "" HUP INT QUIT USR1 USR2; echo; exec tail -f /dev/null'
    async with running(child, ignores, monkeypatch):
        child.pass_on(number)
        await trio.sleep(1000)
        assert child.status is None
        child.pass_on(signal.SIGKILL)
    assert child.status == 137


async def test_grace_is_one_for_all_that_stems_from_the_command(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    child = Child(10, no_words)
    async with running(child, f"({IGNORES_SIGTERM}); true", monkeypatch):
        began = trio.current_time()
        child.end()
    assert trio.current_time() == pytest.approx(began + 10)
    assert child.status == 143


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
    assert said == [
        "nitrohb: cannot send SIGTERM to the command: Operation not permitted",
        "nitrohb: cannot send SIGKILL to the command: Operation not permitted",
    ]


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
    assert said == [
        f"nitrohb: process {pid}, left by the command, goes on: Operation not permitted"
    ]


@pytest.mark.parametrize("keep", [False, True])
async def test_time_limit_is_for_the_first_heartbeat(
    keep: bool, sock: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, end = os.pipe()
    os.set_inheritable(ended, True)
    monkeypatch.setenv("END", str(ended))
    status: list[int] = []
    args = parse(["run", "--quiet", *(["--keep"] if keep else []), "--", *UNTIL_EOF])
    console = Console()
    launch = Launch(open_listeners([f"unix:{sock}"]), 60, args, console)

    async def run() -> None:
        status.append(await launch.run(Stop()))

    with open(ended, "rb"), open(end, "wb") as end_it:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            mock_clock.jump(59)
            with Client(sock) as client:
                client.send(b"\xb7")
                await wait_all_tasks_blocked()
                assert client.look()[0] == b"\xb7"
            mock_clock.jump(1000)
            await wait_all_tasks_blocked()
            assert not status
            end_it.close()
    console.close()
    assert status == [3]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGHUP, 124), (signal.SIGINT, 124), (signal.SIGTERM, 3)]
)
async def test_time_limit_is_there_until_sigterm(
    number: signal.Signals,
    status: int,
    sock: Path,
    mock_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # by the command as well
    ended, end = os.pipe()
    os.set_inheritable(ended, True)
    monkeypatch.setenv("END", str(ended))
    args = parse(["run", "--quiet", "--kill-after", "1000", "--", *UNTIL_EOF])
    console = Console()
    launch = Launch(open_listeners([f"unix:{sock}"]), 60, args, console)
    result: list[int] = []

    async def run() -> None:
        result.append(await launch.run(Stop()))

    with open(ended, "rb"), open(end, "wb") as end_it:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_all_tasks_blocked()
            mock_clock.jump(59)
            launch.take(number)
            mock_clock.jump(2)
            await wait_all_tasks_blocked()
            assert not result
            end_it.close()
    console.close()
    assert result == [status]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
async def test_signal_just_before_the_command_is_started(
    number: signal.Signals, status: int, sock: Path
) -> None:
    console = Console()
    args = parse(["run", "--quiet", "--", "/no/such/command"])
    launch = Launch(open_listeners([f"unix:{sock}"]), 60, args, console)
    stop = Stop()
    stop.signal = number
    launch.take(number)
    assert await launch.run(stop) == status
    console.close()


async def test_heartbeat_at_the_very_end_of_the_command_counts_and_its_address_closes(
    sock: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def speaks_and_ends(child: Child, *_: object) -> None:
        with Client(sock) as client:
            client.send(b"\xb7")
        child.status = 5

    monkeypatch.setattr(Child, "run", speaks_and_ends)
    args = parse(["run", "-l", f"unix:{sock}", "--", *FOR_EVER])
    console = Console()
    launch = Launch(open_listeners([f"unix:{sock}"]), 60, args, console)
    assert await launch.run(Stop()) == 5
    console.close()
    names = [line.split()[1] for line in capfd.readouterr().err.splitlines()]
    assert names == [
        "nitro_listening",
        "nitro_connected",
        "nitro_heartbeat",
        "nitro_done",
    ]


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
            assert stderr is None
    console.close()


def test_what_is_meant_for_us_alone_is_not_in_the_command_s_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_ELSE"):
        monkeypatch.setenv(name, "1")
    for name in ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "WATCHDOG_ELSE"):
        monkeypatch.setenv(name, "1")
    names = {name for name in environment([]) if name.startswith(("LISTEN", "NOTIFY", "WATCHDOG"))}
    assert names == {"LISTEN_ELSE", "WATCHDOG_ELSE"}
