# SPDX-License-Identifier: Apache-2.0
"""Whoever reads slowly, pauses or has gone, on a real pipe and a real terminal."""

import contextlib
import errno
import fcntl
import os
import pty
import re
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb.cli import outlet
from nitrohb.cli.console import Console
from nitrohb.cli.levels import DEBUG, ERROR, WARNING
from nitrohb.cli.outlet import Outlet

from .process import HEARTBEAT, PATIENCE, beat, read_until, started

SIZE = 4096  # of the smallest pipe


@contextmanager
def small_pipe(pages: int = 1) -> Generator[tuple[TextIO, int]]:
    """A stream into a pipe, and the end from which that is read; nobody has patience."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, pages * SIZE)
    os.set_blocking(reader, False)
    with (
        pytest.MonkeyPatch.context() as patch,
        open(reader, "rb", buffering=0),
        open(writer, "w") as stream,
    ):
        patch.setattr(outlet, "_PATIENCE", 0)
        yield stream, reader


@contextmanager
def piped() -> Generator[tuple[Outlet, int]]:
    """An outlet into a small pipe, and the end from which that is read."""
    with small_pipe() as (stream, reader):
        os.set_blocking(stream.fileno(), False)  # a write of too much ends, in any case
        out = Outlet(stream)
        try:
            yield out, reader
        finally:
            out.close()


def read(reader: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(reader, 2 * SIZE)
    return b""


@given(st.lists(st.one_of(st.integers(1, 3 * SIZE), st.just("read")), max_size=12))
def test_each_line_is_there_whole_or_counted(steps: list[int | str]) -> None:
    with piped() as (out, reader):
        seen = b""
        told = 0
        written: list[bytes] = []
        for number, step in enumerate(steps):
            if isinstance(step, str):
                seen += read(reader)
            else:
                text = f"{number}:{step * 'x'}."
                told += out.left_out()
                news = out.write(f"{text}\n")
                assert news in ("", "nobody reads it; until somebody does, lines are left out")
                written.append(text.encode())
        seen += read(reader)
        told += out.close()
        lines = seen.split(b"\n")
        whole = [line for line in lines if line.endswith(b".")]
        assert whole == [line for line in written if line in whole], "in order, none twice"
        assert len(whole) + told == len(written)
        assert out.has_lost is (told > 0)
        assert not out.problem


def test_a_pause_is_told_of_when_it_begins_and_when_it_ends() -> None:
    with piped() as (out, reader):
        assert out.write("x\n" * SIZE).startswith("nobody reads it; ")
        assert out.write("left out\n") == ""
        assert out.left_out() == 0, "it goes on"
        assert read(reader) == b"x\n" * (SIZE // 2)
        assert out.left_out() == SIZE // 2 + 1
        assert out.left_out() == 0, "that has been told"
        assert out.write("whole\n") == ""
        assert read(reader).endswith(b"\nwhole\n")


def test_what_does_not_matter_takes_no_patience_from_what_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Say, a status line on a terminal that is busy for a moment, just before an error."""
    patience: list[float] = []

    def has_no_room(*args: Any) -> tuple[list[int], list[int], list[int]]:
        patience.append(args[-1])
        return [], [], []

    with piped() as (out, _):
        monkeypatch.setattr(outlet, "_PATIENCE", 1.0)
        monkeypatch.setattr("select.select", has_no_room)
        assert out.write("status", matters=False) == ""
        assert out.write("error\n").startswith("nobody reads it; ")
        assert out.write("another\n") == ""
    none, one, none_again = patience
    assert none == none_again == 0
    assert one > 0


def test_a_reader_that_has_gone_has_lost_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        out = Outlet(stream)
        assert out.write("x\n") == "Broken pipe; nothing more is printed there"
        assert out.write("x\n") == ""
        assert (out.problem, out.has_lost, out.close()) == ("Broken pipe", False, 0)


@contextmanager
def stderr_to_file() -> Generator[TextIO]:
    with open(os.memfd_create("err"), "w+") as file, redirect_stderr(file):
        yield file


def content(file: TextIO) -> str:
    file.seek(0)
    return file.read()


def test_what_is_left_out_on_stdout_is_said_on_stderr() -> None:
    with small_pipe() as (out, reader), redirect_stdout(out), stderr_to_file() as err:
        console = Console()
        console.print(2 * SIZE * "x")
        assert console.has_lost
        assert read(reader) == SIZE * b"x"
        console.print("y")
        console.print(2 * SIZE * "x")
        console.close()
        pause, end, *again = content(err).splitlines()
    assert again == [pause, end]
    assert pause.startswith("nitrohb: stdout: nobody reads it; ")
    assert "1 line was left out" in end


@pytest.mark.parametrize("level", [DEBUG, ERROR])
def test_what_is_left_out_on_stderr_is_said_there(level: int) -> None:
    # A page for the notice, one for what follows.
    with small_pipe(2) as (err, reader), redirect_stderr(err):
        console = Console()
        console.level = level
        console.say(2 * SIZE * "x")
        console.say("left out")
        assert read(reader) == 2 * SIZE * b"x"
        console.say("next")
        console.close()
        notice, end, rest = read(reader).decode().rpartition("\nnext\n")
    assert (end, rest) == ("\nnext\n", "")
    assert notice.startswith("\nnitrohb: stderr: 1 line was left out" if level == DEBUG else "")
    assert notice.count("\n") == (level == DEBUG)


def test_what_does_not_matter_enough_is_not_said() -> None:
    with stderr_to_file() as err:
        console = Console()
        console.level = ERROR
        console.say("a warning", WARNING)
        console.say("an error")
        console.close()
        assert content(err) == "an error\n"


def test_console_that_finds_no_descriptor_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with (
        contextlib.suppress(OSError),  # what cannot be written is still in the buffer at its close
        open("/dev/full", "w") as full,
        redirect_stdout(full),
        stderr_to_file() as err,
    ):
        with monkeypatch.context() as exhausted:
            exhausted.setattr(os, "open", none_left)
            console = Console()
        console.print("lost")
        console.print("not even tried")
        console.close()
        (said,) = content(err).splitlines()
        assert said.startswith(f"nitrohb: stdout: {os.strerror(errno.ENOSPC)}; ")


def test_console_does_not_wait_for_ever_for_a_pipe_with_some_room() -> None:
    """A write of more than there is room for would block, although the pipe is writable."""
    with small_pipe(4) as (out, reader), redirect_stdout(out), stderr_to_file() as err:
        os.write(out.fileno(), 4 * SIZE * b"x")
        os.read(reader, SIZE)
        console = Console()
        console.print("line\n" * 10_000)
        console.close()
        assert content(err).startswith("nitrohb: stdout: nobody reads it; ")


def seconds_of_a_beat(sock: Path) -> float:
    began = time.monotonic()
    assert beat(sock) == HEARTBEAT
    return time.monotonic() - began


def test_a_terminal_that_is_stopped_and_goes_on(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-S, and after some events Ctrl-Q: the rest is shown, and that something is missing."""
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0), open(terminal, "wb", buffering=0) as theirs:
        args = ("--keep", "-l", f"unix:{sock}")
        with started(*args, stdout=terminal, stderr=terminal, env={"TERM": "xterm"}) as script:
            # To the end of the status line: nothing is being written when the terminal stops.
            read_until(controller, lambda seen: b"nitro_listening" in seen and seen.endswith(b"7h"))
            termios.tcflow(theirs, termios.TCOOFF)
            assert any(seconds_of_a_beat(sock) > 0.5 for _ in range(1000)), "it waits, once"
            seconds_of_a_beat(sock)  # so that this is over
            termios.tcflow(theirs, termios.TCOON)
            assert beat(sock) == HEARTBEAT
            seen = read_until(controller, lambda seen: b"nitro_heartbeat" in seen)
            assert "stdout: " in seen
            assert "left out, while nobody read it" in seen
            assert "stderr: " not in seen, "nothing of worth was left out there"
            before_events = re.findall(r"(?s)(..)\d{4}-\d\d-\d\dT", seen)
            assert before_events
            assert {*before_events} <= {"\r\n", "[K"}, "no status is in the way of an event"
            script.popen.terminate()
            assert script.popen.wait(PATIENCE) == 143
