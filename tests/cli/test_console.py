# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run --console``: the last lines if there is no heartbeat, and all of it in a file.

The test plays the VMM, on a socket like that of the serial port of QEMU.
"""

import errno
import math
import os
import re
import socket
import stat
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn
from unittest.mock import Mock

import pytest
import trio
from trio.testing import MockClock

from nitrohb import Connected, HybridAddress, Listening, NitrohbError, VsockAddress
from nitrohb.cli.console import GuestConsole, Log
from nitrohb.cli.output import Output
from nitrohb.remedies import connect_error

from .events import made
from .process import HEARTBEAT, PATIENCE, Script, beat, listening, nitrohb_here, started
from .settings import run_settings

PANIC = b"Booting\r\n\x1b[31mKernel panic\x1b[0m\nnitrohb: all is well"
SHOWN = ["| Booting", r"| \x1b[31mKernel panic\x1b[0m", "| nitrohb: all is well"]


@pytest.fixture
def serial(tmp_path: Path) -> Path:
    return tmp_path / "serial"


@contextmanager
def booting(
    sock: Path, serial: Path, *options: str, status: int = 1
) -> Generator[tuple[Script, socket.socket]]:
    """Boot a guest with a command that ends on request. Also yields its console."""
    args = ("run", "--quiet", "-l", f"unix:{sock}", "--console", f"unix:{serial}", *options)
    command = ("sh", "-c", f"read _; exit {status}")
    with (
        listening(serial) as vmm,
        started(*args, "--", *command, stdin=subprocess.PIPE) as script,
        vmm.accept()[0] as console,
    ):
        console.settimeout(PATIENCE)
        yield script, console


# What is printed.


def test_last_lines_after_the_end_of_the_command(sock: Path, serial: Path) -> None:
    """The lines arrived just before. A guest cannot imitate nitrohb, or control the terminal."""
    with booting(sock, serial) as (script, console):
        console.sendall(PANIC)
        code, _, err = script.end()
    assert code == 125
    why, _remedy, title, *lines = err.splitlines()
    assert "ended with status 1" in why
    assert title == f"nitrohb: the last lines of the console at unix:{serial}:"
    assert lines == SHOWN


def test_last_lines_when_the_time_is_up(sock: Path, serial: Path) -> None:
    with booting(sock, serial, "--timeout", "2") as (script, console):
        console.sendall(PANIC)
        script.popen.wait(PATIENCE)
        code, _, err = script.end()
    assert code == 124
    assert "within 2 s" in err.splitlines()[0]
    assert err.splitlines()[-3:] == SHOWN


def test_nothing_is_printed_after_a_heartbeat(sock: Path, serial: Path) -> None:
    with booting(sock, serial, status=3) as (script, console):
        console.sendall(PANIC)
        assert beat(sock) == HEARTBEAT
        assert script.end() == (3, "", "")


def test_a_console_that_never_comes(sock: Path, serial: Path) -> None:
    options = ("--quiet", "-l", f"unix:{sock}", "--console", f"unix:{serial}")
    code, _, err = nitrohb_here("run", *options, "--", "false")
    assert code == 125
    assert f"the console at unix:{serial}: {serial} does not exist" in err.splitlines()[-2]


def test_a_console_without_output(sock: Path, serial: Path) -> None:
    with booting(sock, serial) as (script, _):
        _, _, err = script.end()
    assert err.splitlines()[-2] == f"nitrohb: no output from the console at unix:{serial}"


def test_a_console_that_floods(sock: Path, serial: Path, tmp_path: Path) -> None:
    """The heartbeat is answered meanwhile, and the command has its status."""

    def flood() -> None:
        with suppress(OSError):  # nitrohb has ended
            while True:
                console.sendall(b"x\n" * 50_000)

    log = ("--console-log", str(tmp_path / "log"))
    with booting(sock, serial, *log, status=3) as (script, console):
        flooding = threading.Thread(target=flood)
        flooding.start()
        assert beat(sock) == HEARTBEAT
        code, _, _ = script.end()
        flooding.join(PATIENCE)
    assert code == 3


# The console of a real enclave.


def console_of_enclave(output: Output, *cids: int) -> GuestConsole:
    return GuestConsole("auto", run_settings("x", allow_cids=cids or None), output)


def explanation(console: GuestConsole, capfd: pytest.CaptureFixture[str]) -> str:
    console.explain()
    return capfd.readouterr().err


@pytest.mark.parametrize("cids", [(), (16, 17)])
def test_the_first_allowed_connection_tells_the_cid(
    cids: tuple[int, ...], output: Output, capfd: pytest.CaptureFixture[str]
) -> None:
    console = console_of_enclave(output, *cids)
    console.on_event(made(Listening))
    console.on_event(made(Connected, address=HybridAddress("vm4", 9000), peer=None))
    if cids:
        console.on_event(made(Connected, cid=4))
    unknown = explanation(console, capfd)
    assert "no enclave has connected over vsock" in unknown
    assert "--allow-cid" in unknown
    for cid in (17, 16):
        console.on_event(made(Connected, cid=cid))
    assert "the console at vsock:0:10017\n" in explanation(console, capfd)


def test_the_only_allowed_cid_is_known_before(
    output: Output, capfd: pytest.CaptureFixture[str]
) -> None:
    said = explanation(console_of_enclave(output, 16), capfd)
    assert "the console at vsock:0:10016\n" in said
    assert "debug mode" in said


@pytest.mark.parametrize(("takes", "said"), [(0.5, "(ECONNRESET)"), (math.inf, "no output")])
async def test_an_enclave_that_ends_as_soon_as_its_cid_is_known(
    takes: float,
    said: str,
    output: Output,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """There is time for one attempt to connect to its console, but no longer than 1 s."""

    async def connect(address: VsockAddress) -> NoReturn:
        await trio.sleep(takes)
        raise connect_error(address, errno.ECONNRESET)

    monkeypatch.setattr("nitrohb.console.connect", connect)
    console = console_of_enclave(output)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(console.run)
        await console.wait_attempt()  # no enclave, nothing to wait for
        console.on_event(made(Connected, cid=16))
        await console.wait_attempt()
        assert trio.current_time() == min(takes, 1)
        nursery.cancel_scope.cancel()
    assert said in explanation(console, capfd)


# The file.


def test_the_file_has_all_of_it_and_nobody_else_can_read_it(
    sock: Path, serial: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    data = PANIC * 20_000
    with booting(sock, serial, "--console-log", str(log)) as (script, console):
        console.sendall(data)
        script.end()
    assert log.read_bytes() == data
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_an_old_file_is_emptied_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("of the last boot")
    path.chmod(0o644)
    log = Log(str(path), print)
    log.write(b"new")
    log.close()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_file_that_cannot_be_written_is_told_before_the_command_starts(
    sock: Path, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    options = ("-l", f"unix:{sock}", "--console", "unix:x", "--console-log", "/nowhere/log")
    code, _, err = nitrohb_here("run", *options, "--", "touch", str(started))
    assert code == 1
    assert "--console-log /nowhere/log: No such file or directory (ENOENT)\n" in err
    assert not started.exists()


def test_a_full_disk_is_reported_once() -> None:
    warn = Mock()
    log = Log("/dev/full", warn)
    log.write(b"x")
    log.close()
    log.write(b"x")
    (call,) = warn.call_args_list
    assert "--console-log /dev/full: No space left on device" in call.args[0]


def test_a_disk_that_hangs_delays_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe without a reader plays the disk. Memory is bounded, and dropped bytes are reported."""
    monkeypatch.setattr("nitrohb.cli.console._CLOSE_TIMEOUT", 0.01)
    path, warn, line = tmp_path / "log", Mock(), b"x" * 1023 + b"\n"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        log = Log(str(path), warn)
        for _ in range(4096):
            log.write(line)
        log.close()
        (call,) = warn.call_args_list
        assert "its end is missing" in call.args[0]
        os.set_blocking(reader.fileno(), True)
        data = reader.read()  # the thread goes on, and closes it
    written, *missing = re.split(rb"\n\[nitrohb: (\d+) bytes dropped: slow disk\]\n", data)
    # The thread may have begun to write before, or after, the first bytes were dropped.
    numbers, texts = missing[::2], [written, *missing[1::2]]
    assert numbers
    assert sum(map(len, texts)) + sum(map(int, numbers)) == 4096 * len(line)
    assert sum(map(len, texts)) < 3 * 1024 * 1024


def test_a_lack_of_threads_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = Mock(side_effect=RuntimeError("can't start new thread"))
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(NitrohbError, match=r"--console-log .*: can't start new thread"):
        Log(str(tmp_path / "log"), print)
