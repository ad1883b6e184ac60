# SPDX-License-Identifier: Apache-2.0
"""The command of ``nitrohb run``, where a whole nitrohb would need perfect timing or other rights.

test_run.py has the rest: descendants, terminals, and real signals.
"""

import errno
import os
import re
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nitrohb.cli.process import Process, why_not_started

FOREVER = ("tail", "-f", "/dev/null")
IGNORES_SIGTERM = 'trap "" TERM; echo; exec tail -f /dev/null'
EPERM = PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def no_warning(line: str) -> NoReturn:
    pytest.fail(f"warned: {line!r}")


async def run(process: Process, *argv: str) -> None:
    await process.run(argv, os.environ, trio.lowlevel.checkpoint)


def when_started(monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Do something when the command runs, just before the Process knows it."""
    open_process = trio.lowlevel.open_process

    async def observed(*args: Any, **options: Any) -> trio.Process:
        popen = await open_process(*args, **options)
        then()
        return popen

    monkeypatch.setattr(trio.lowlevel, "open_process", observed)


@asynccontextmanager
async def running(
    process: Process, shell: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[None]:
    """Run shell code. The block begins when it prints a line, and waits for its end."""
    started = trio.Event()
    when_started(monkeypatch, started.set)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    with open(reader, "rb", buffering=0) as ready, open(writer, "wb"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, process, "sh", "-c", f"exec >/dev/fd/{writer}; {shell}")
            await trio.to_thread.run_sync(ready.readline)
            await started.wait()
            await wait_all_tasks_blocked()
            yield


# The start.


async def test_lack_of_threads_is_a_lack_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """trio forks in a thread, and the kernel counts threads and processes together."""
    process = Process(10, no_warning)
    open_process = Mock(side_effect=RuntimeError("can't start new thread"))
    monkeypatch.setattr("trio.lowlevel.open_process", open_process)
    await run(process, "true")
    assert process.start_error is not None
    assert process.start_error.errno == errno.EAGAIN
    open_process.side_effect = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await run(process, "true")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
async def test_signal_before_the_start_prevents_it(number: int) -> None:
    process = Process(10, no_warning)
    process.send_signal(number)
    await run(process, "/no/such/command")
    assert (process.status, process.start_error) == (None, None)


async def test_signal_during_the_start_is_sent_when_the_command_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process(1000, no_warning)
    when_started(monkeypatch, lambda: process.send_signal(signal.SIGINT))
    await run(process, *FOREVER)
    assert process.status == 130


@pytest.mark.parametrize(
    ("command", "number", "reason", "remedy"),
    [
        ("", None, "its name is empty", "after --"),
        ("here", None, "there is no such command in PATH", "write ./here"),
        ("so so", None, "there is no such command in PATH", "write ./'so so'"),
        ("nowhere", None, "there is no such command (ENOENT)", "absolute path"),
        ("./script", None, "its interpreter (#!", "Install"),
        ("in-path", None, "its interpreter (#!", "Install"),
        ("./here", None, "(EACCES)", "chmod +x"),
        ("./here/x", None, "(ENOTDIR)", "Check its path"),
        ("./directory", None, "it is a directory (EACCES)", "in it"),
        ("./empty", None, "(ENOEXEC)", "#!/bin/sh"),
        ("here", errno.EAGAIN, "too many processes (EAGAIN)", "ulimit -u"),
        ("here", errno.EMFILE, "too many open files (EMFILE)", "ulimit -n"),
        ("here", errno.E2BIG, f"{os.strerror(errno.E2BIG)} (E2BIG)", "without nitrohb"),
    ],
)
async def test_why_a_command_is_not_started(
    command: str,
    number: int | None,
    reason: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here", "so so", "empty", "script"):
        Path(name).touch(0o700 if name in ("empty", "script") else 0o600)
    Path("script").write_text("#!/no/such/python\n")
    Path("directory").mkdir()
    Path("directory/in-path").symlink_to(Path("script").absolute())
    monkeypatch.setenv("PATH", str(Path("directory").absolute()), prepend=os.pathsep)
    error: OSError | None = OSError(number, "")
    if number is None:
        process = Process(10, no_warning)
        await run(process, command)
        error = process.start_error
    assert error is not None
    first, second = why_not_started(command, error).splitlines()
    assert reason in first
    assert remedy in second


# The end.


async def test_cancelled_run_ends_the_command() -> None:
    process = Process(1000, no_warning)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, process, *FOREVER)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert process.status == 143


async def test_kill_after_counts_from_the_first_sigterm(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    process = Process(10, no_warning)
    traps = 'trap "" HUP INT QUIT TERM USR1 USR2'
    async with running(process, f"{traps}; ({IGNORES_SIGTERM}); true", monkeypatch):
        for name in ("HUP", "INT", "QUIT", "USR1", "USR2"):
            process.send_signal(signal.Signals[f"SIG{name}"])
        await trio.sleep(1000)
        assert process.status is None
        began = trio.current_time()
        process.end()
        await trio.sleep(6)
        process.end()
    assert trio.current_time() == pytest.approx(began + 10)
    assert process.status == 143  # it did not end, it was killed


async def test_killed_descendant_leaves_the_status_of_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process(0.3, no_warning)
    shell = f'trap "exit 5" TERM; ({IGNORES_SIGTERM}) & wait'
    async with running(process, shell, monkeypatch):
        process.end()
    assert process.status == 5


async def test_a_signal_after_the_end_has_no_effect() -> None:
    """Another process can have its process ID by now."""
    process = Process(10, no_warning)
    await run(process, "true")
    process.send_signal(signal.SIGINT)
    assert process.status == 0


# Processes that nitrohb may not signal, such as sudo.


async def test_command_that_cannot_be_signalled_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    warnings: list[str] = []
    process = Process(10, warnings.append)
    send_signal = trio.Process.send_signal

    def refuse(popen: trio.Process, number: int) -> None:
        if number == signal.SIGKILL:  # after this nothing else would end it
            send_signal(popen, signal.SIGHUP)
        raise EPERM

    monkeypatch.setattr(trio.Process, "send_signal", refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, process, *FOREVER)
        await wait_all_tasks_blocked()
        process.end()
    assert process.status == 129
    for line, name in zip(warnings, ("SIGTERM", "SIGKILL"), strict=True):
        assert name in line
        assert os.strerror(errno.EPERM) in line


async def test_descendant_that_cannot_be_signalled_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warnings: list[str] = []
    refused: list[int] = []
    process = Process(1000, warnings.append)
    kill = os.kill

    def refuse(pid: int, _: int) -> None:
        refused.append(pid)
        raise EPERM

    async with running(process, "(echo; exec tail -f /dev/null) & wait; exit 5", monkeypatch):
        process.send_signal(signal.SIGKILL)
        process.end()
        monkeypatch.setattr(os, "kill", refuse)
    (pid,) = refused
    kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0) == (pid, signal.SIGKILL)
    assert process.status == 137
    (line,) = warnings
    assert f"process {pid} " in line
    assert os.strerror(errno.EPERM) in line


async def test_sigchld_has_no_handler_afterwards() -> None:
    """Python prints a traceback if a signal arrives while it sets SIG_DFL, or after trio ends."""
    await run(Process(10, no_warning), "true")
    assert callable(signal.getsignal(signal.SIGCHLD))
    (caught,) = re.findall(r"(?m)^SigCgt:\s*(\w+)$", Path("/proc/self/status").read_text())
    assert not int(caught, 16) >> signal.SIGCHLD - 1 & 1
