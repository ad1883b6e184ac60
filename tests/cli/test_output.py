# SPDX-License-Identifier: Apache-2.0
"""Readers that are slow, pause, or have gone, on real pipes and a real terminal."""

import contextlib
import errno
import fcntl
import io
import os
import pty
import re
import socket
import termios
import time
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

import pytest
import trio
from hypothesis import example, given
from hypothesis import strategies as st

from nitrohb.cli import output as module
from nitrohb.cli.output import ERROR, WARNING, Output, Stream
from nitrohb.cli.printer import draining
from tests.support import descriptors_left

from .process import HEARTBEAT, PATIENCE, beat, read_until, started

PAGE = 4096  # bytes: the smallest pipe
QUEUE = 3 * PAGE


@contextmanager
def small_pipe(*, reopened: bool = True) -> Generator[tuple[TextIO, int]]:
    """A stream to the smallest pipe, with a small queue, and the reading end."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PAGE)
    os.set_blocking(reader, False)

    def no_proc(*_: object) -> int:
        raise FileNotFoundError(errno.ENOENT, "no /proc")

    with (
        pytest.MonkeyPatch.context() as patch,
        open(reader, "rb", buffering=0),
        open(writer, "w") as stream,
    ):
        patch.setattr(module, "_QUEUE_MAX", QUEUE)
        patch.setattr(module, "_FLUSH_TIMEOUT", 0)
        if not reopened:
            patch.setattr(os, "open", no_proc)
        yield stream, reader


def read(reader: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(reader, 2 * QUEUE)
    return b""


@contextmanager
def stderr_to_file() -> Generator[TextIO]:
    with open(os.memfd_create("err"), "w+") as file, redirect_stderr(file):
        yield file


def content(file: TextIO) -> str:
    file.seek(0)
    return file.read()


@given(st.booleans(), st.lists(st.one_of(st.integers(1, 2 * PAGE), st.just("read")), max_size=16))
@example(reopened=False, steps=[PAGE - 3])  # only the line break has no room
def test_each_line_is_written_whole_or_counted(reopened: bool, steps: list[int | str]) -> None:
    with small_pipe(reopened=reopened) as (pipe, reader):
        stream = Stream(pipe)
        stream.open_nonblocking()
        seen, counted, written = b"", 0, list[bytes]()
        for number, step in enumerate(steps):
            if isinstance(step, str):
                seen += read(reader)
                stream.flush()
            else:
                text = f"{number}:{step * 'x'}."
                counted += stream.take_dropped()
                assert stream.write(f"{text}\n") == ""
                written.append(text.encode())
        stream.close()
        counted += stream.take_dropped()
        seen += read(reader)
        whole = [line for line in seen.split(b"\n")[:-1] if line.endswith(b".")]
        assert whole == [line for line in written if line in whole], "in order, none twice"
        assert len(whole) + counted == len(written)
        assert stream.has_dropped_lines is (counted > 0)


async def test_what_is_queued_is_written_when_the_reader_goes_on() -> None:
    with small_pipe() as (pipe, reader), redirect_stdout(pipe), stderr_to_file() as err:
        output = Output()
        async with draining(output):
            await trio.testing.wait_all_tasks_blocked()
            output.print_out(2 * PAGE * "x")
            output.print_out("queued")
            output.print_out(QUEUE * "y")  # dropped
            seen = read(reader)
            assert seen == PAGE * b"x"
            while not seen.endswith(b"queued\n"):
                await trio.lowlevel.wait_readable(reader)
                seen += read(reader)
            await trio.testing.wait_all_tasks_blocked()
        assert seen == 2 * PAGE * b"x" + b"\nqueued\n"
        output.close()
        assert "dropped 1 line for stdout" in content(err)
        assert output.has_dropped_lines


def test_the_end_waits_for_a_reader_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with small_pipe() as (pipe, reader):
        monkeypatch.setattr(module, "_FLUSH_TIMEOUT", PATIENCE)
        stream = Stream(pipe)
        stream.open_nonblocking()
        stream.write((2 * PAGE - 1) * "x" + "\n")
        seen = read(reader)  # there is room again, but the stream does not know it
        stream.close()
        assert seen + read(reader) == (2 * PAGE - 1) * b"x" + b"\n"
        assert stream.take_dropped() == 0


def test_a_batch_that_is_larger_than_the_queue_is_written_in_part() -> None:
    with open(os.memfd_create("out"), "w+") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_QUEUE_MAX", QUEUE)
        stream = Stream(file)
        stream.write(QUEUE * "x\n")
        assert content(file) == QUEUE * "x\n"
        assert not stream.has_dropped_lines


def test_lines_that_are_dropped_on_stderr_are_counted_there() -> None:
    with small_pipe() as (pipe, reader), redirect_stderr(pipe):
        output = Output()
        output.stderr.open_nonblocking()
        output.print_err((PAGE - 1) * "x")
        output.print_err(2 * QUEUE * "y")
        assert read(reader) == (PAGE - 1) * b"x" + b"\n"
        output.print_err("next")
        output.close()
        assert re.fullmatch(rb"nitrohb: dropped 1 line for stderr.*\n.*\nnext\n", read(reader))


def test_one_queue_for_one_pipe() -> None:
    with small_pipe() as (pipe, reader), redirect_stdout(pipe), redirect_stderr(pipe):
        output = Output()
        output.stdout.open_nonblocking()
        for number in range(9):
            (output.print_err if number % 2 else output.print_out)(f"{number}")
        output.close()
        assert read(reader).split() == [b"%d" % number for number in range(9)]


def test_lines_for_a_reader_that_has_gone_are_not_counted() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe, redirect_stdout(pipe), stderr_to_file() as err:
        output = Output()
        output.print_out("x")
        output.print_out("x")
        output.close()
        assert not output.has_dropped_lines
        assert content(err).count("Broken pipe") == 1


@pytest.mark.parametrize("is_file", [True, False])
def test_a_write_that_fails_is_reported_once(is_file: bool) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        open("/dev/full", "w") if is_file else Full() as full,
        redirect_stdout(full),
        stderr_to_file() as err,
    ):
        output = Output()
        output.print_out("lost")
        output.print_out("not even tried")
        output.close()
        said, _remedy = content(err).splitlines()
        assert f"stdout: {os.strerror(errno.ENOSPC)} (ENOSPC); " in said
        assert output.has_dropped_lines


def test_a_closed_stream() -> None:
    with redirect_stdout(None), stderr_to_file():
        output = Output()
        output.print_out("lost")
        assert output.has_dropped_lines


def test_stdout_can_be_any_object() -> None:
    with redirect_stdout(io.StringIO()) as out:
        output = Output()
        output.print_out("x")
        output.close()
    assert out.getvalue() == "x\n"


def test_a_socket_whose_reader_pauses() -> None:
    """stdout can be a socket, for example of the journal."""
    ours, theirs = socket.socketpair()
    with ours, open(theirs.detach(), "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FLUSH_TIMEOUT", 0)
        stream = Stream(file)
        while not stream.has_queued:
            stream.write(PAGE * "x" + "\n")
        stream.close()
        assert stream.take_dropped() >= 1


@pytest.mark.parametrize("size", [10, 50, 100, 300, 1000])
def test_a_terminal_that_cannot_be_opened_again_and_whose_reader_pauses(size: int) -> None:
    """For example that of another user. It can have room for only a part of the text."""
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0) as reader, open(terminal, "w") as other:
        stream = Stream(other)
        for _ in range(500_000 // size):
            assert stream.write(f"{size * 'x'}\n") == ""
        assert os.get_blocking(terminal)
        text = b""
        while stream.has_queued:
            text += reader.read(PAGE)
            stream.flush()
        assert set(text.split(b"\r\n")[:-1]) == {size * b"x"}
        termios.tcflush(terminal, termios.TCOFLUSH)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_terminal_keeps_the_flag_that_others_have_set(blocking: bool) -> None:
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0) as reader, open(terminal, "w") as other:
        os.set_blocking(terminal, blocking)
        assert Stream(other).write("x\n") == ""
        assert os.get_blocking(terminal) == blocking
        assert reader.read(PAGE) == b"x\r\n"


def test_messages_below_the_level_are_not_printed() -> None:
    with stderr_to_file() as err:
        output = Output()
        output.level = ERROR
        output.print_err("a warning", WARNING)
        output.print_out("not printed")
        output.print_err("an error")
        output.close()
        assert content(err) == "an error\n"


def longest_beat(sock: Path, count: int) -> float:
    longest = 0.0
    for _ in range(count):
        began = time.monotonic()
        assert beat(sock) == HEARTBEAT
        longest = max(longest, time.monotonic() - began)
    return longest


def test_a_terminal_that_is_stopped_delays_no_heartbeat(sock: Path) -> None:
    """Ctrl-S, many heartbeats, Ctrl-Q: then the queue is shown, and how many lines were dropped."""
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0), open(terminal, "wb", buffering=0) as theirs:
        args = ("--keep", "-l", f"unix:{sock}")
        with started(*args, stdout=terminal, stderr=terminal, env={"TERM": "xterm"}) as script:
            read_until(controller, lambda seen: b"nitro_listening" in seen and seen.endswith(b"7h"))
            termios.tcflow(theirs, termios.TCOOFF)
            assert longest_beat(sock, 1000) < PATIENCE
            termios.tcflow(theirs, termios.TCOON)
            written = b""
            while not re.search(rb"dropped[^\n]*\n", written):
                written += os.read(controller, QUEUE)
            seen = written.decode()
            assert re.search(r"dropped \d+ lines", seen)
            before_events = re.findall(r"(?s)(..)\d{4}-\d\d-\d\dT", seen)
            assert len(before_events) > 100
            assert {*before_events} <= {"\r\n", "[K"}, "no status is in the way of an event"
            assert beat(sock) == HEARTBEAT
            read_until(controller, lambda seen: b"nitro_heartbeat" in seen)
            script.popen.terminate()
            assert script.popen.wait(PATIENCE) == 143


def test_the_last_descriptor_is_left_to_the_heartbeats() -> None:
    with small_pipe() as (pipe, _), descriptors_left(1):
        stream = Stream(pipe)
        stream.open_nonblocking()
        assert stream.fd == pipe.fileno()
        os.close(os.dup(stream.fd))
