# SPDX-License-Identifier: Apache-2.0
"""The pieces of ``nitrohb run``, where a process would need perfect timing or other rights."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb import Listener, open_listeners
from nitrohb.cli.child import Child
from nitrohb.cli.console import Console
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
    "sock = socket.socket(socket.AF_UNIX)\n"
    'sock.connect(os.environ["NITROHB_LISTEN"].partition(":")[2])\n'
    "signal.pause()\n",
)


def no_words(line: str) -> NoReturn:
    pytest.fail(f"said {line!r}")


async def run(child: Child, *argv: str) -> None:
    await child.run(argv, os.environ, None)


async def test_command_that_is_told_to_end_before_its_start_is_not_started() -> None:
    child = Child(10, no_words)
    child.tell(signal.SIGTERM)
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


async def test_command_that_is_told_to_end_while_it_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = Child(1000, no_words)
    when_started(monkeypatch, lambda: child.tell(signal.SIGINT))
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


async def test_grace_is_counted_from_the_first_signal(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    child = Child(10, no_words)
    started = trio.Event()
    when_started(monkeypatch, started.set)
    reader, writer = os.pipe()
    ignorant = ("sh", "-c", f'trap "" TERM INT; echo >/dev/fd/{writer}; exec tail -f /dev/null')
    os.set_inheritable(writer, True)
    with open(reader, "rb", buffering=0) as ready, open(writer, "wb"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, child, *ignorant)
            await started.wait()
            await trio.to_thread.run_sync(ready.readline)
            began = trio.current_time()
            child.tell(signal.SIGTERM)
            await trio.sleep(6)
            child.tell(signal.SIGINT)
    assert trio.current_time() == pytest.approx(began + 10)
    assert child.status is None  # it did not end, it was killed


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
        child.tell(signal.SIGTERM)
    assert child.status == 129
    assert said == [
        "nitrohb: cannot send SIGTERM to the command: Operation not permitted",
        "nitrohb: cannot send SIGKILL to the command: Operation not permitted",
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
