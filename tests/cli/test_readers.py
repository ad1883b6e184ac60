# SPDX-License-Identifier: Apache-2.0
"""Output for programs: ``--events``, ``--ready-fd``, and messages as JSON."""

import errno
import fcntl
import json
import os
import re
import select
import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb.cli import output as module
from nitrohb.cli.output import Output
from nitrohb.cli.parser import wants_json
from nitrohb.remedies import LOCAL_ADVICE
from nitrohb.sockets.listener import Listener

from .process import (
    HEARTBEAT,
    PATIENCE,
    beat,
    listening,
    nitrohb_here,
    read_until,
    redirected,
    started,
)

ONE_SHOT = ["listening", "connected", "heartbeat", "done"]
FULL = os.strerror(errno.ENOSPC)


def names(text: str) -> list[str]:
    """The names of the events in lines of text."""
    return re.findall(r"^\S+Z nitro_(\w+) .*\n", text, re.MULTILINE)


@contextmanager
def pipe() -> Generator[tuple[IO[bytes], int]]:
    """A pipe, whose second end the caller closes."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as file:
        yield file, writer


# Messages as JSON.


OPTIONS = st.sampled_from(
    ["--keep", "--format=json", "--format=text", "--format json", "--format text", "--events json"]
)


@given(options=st.lists(OPTIONS, max_size=6), command=st.sampled_from(["", "serve", "run"]))
def test_the_format_is_known_before_the_command_line_is_parsed(
    options: list[str], command: str
) -> None:
    own = " ".join(options).split()
    launched = ["--", "x", "--format", "json"] if command == "run" else []
    formats = [option[9:] for option in options if option.startswith("--format")]
    is_json = formats[-1:] == ["json"]
    assert wants_json([*command.split(), *own, *launched]) == is_json
    assert wants_json([*command.split(), "--no-such-option", *own, *launched]) == is_json
    assert not wants_json([*command.split(), *own, "--format", *launched])


def messages(err: str) -> Generator[tuple[str, str]]:
    """Each message and its level. All lines must be JSON."""
    for line in err.splitlines():
        fields = json.loads(line)
        assert list(fields) == ["event", "time", "message", "level"]
        assert fields["event"] == "message"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", fields["time"])
        yield fields["message"], fields["level"]


@pytest.mark.parametrize(
    ("line", "code", "levels"),
    [
        ("--timeout soon", 2, {"error"}),
        ("attend", 2, {"error"}),
        ("-l unix:{sock} -l unix:{sock}", 2, {"error"}),
        ("-l unix:/missing/s", 1, {"error"}),
        ("-l unix:{sock} --timeout 0.01", 124, {"warning", "error"}),
        ("-l unix:{sock} --timeout 0.01 --log-level error", 124, {"error"}),
        ("run -l unix:{sock} --quiet -- false", 125, {"warning", "error"}),
        ("run -l unix:{sock} --quiet --timeout 0.5 -- true", 124, {"warning", "info", "error"}),
        ("run -l unix:{sock} --quiet -- /missing", 127, {"warning", "error"}),
        ("wait --cid 16 --api unix:{sock}", 1, {"error"}),
        ("doctor -l unix:{sock} -l unix:{sock}", 2, {"error"}),
    ],
)
def test_a_message_as_json_has_the_words_of_the_text(
    line: str, code: int, levels: set[str], sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listener, "is_isolated", Mock(return_value=True))  # which is a warning
    before, *after = line.format(sock=sock).partition(" -- ")
    args = [before.split(), "".join(after).split()]
    text = nitrohb_here(*args[0], *args[1])
    found = nitrohb_here(*args[0], "--format", "json", *args[1])
    told = list(messages(found[2]))
    assert (text[0], found[0]) == (code, code)
    assert [line for message, _ in told for line in message.splitlines()] == [
        line.removeprefix("nitrohb: ") for line in text[2].splitlines()
    ]
    assert {level for _, level in told} == levels
    if "warning" in levels:
        assert LOCAL_ADVICE[0] in told[0][0]


def test_missing_lines_are_reported_as_json(sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--format=json", command=redirected(">&-")) as script:
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    ((message, level),) = messages(err)
    assert (code, out, level) == (0, "", "warning")
    assert "stdout: " in message


# Events in a file, or in a descriptor.


def test_events_of_serve_in_a_file(sock: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    for _ in range(2):  # each run empties it
        with started("-l", f"unix:{sock}", "--events", str(events)) as script:
            assert beat(sock) == HEARTBEAT
            assert script.end() == (0, "", "")
        assert stat.S_IMODE(events.stat().st_mode) == 0o600
        assert names(events.read_text()) == ONE_SHOT


def test_events_of_run_in_a_descriptor_leave_stderr_to_the_command(sock: Path) -> None:
    with pipe() as (reader, writer):
        shell = f"echo mine >&2; [ ! -e /dev/fd/{writer} ] && cat"
        options = ("-l", f"unix:{sock}", "--events", f"fd:{writer}")
        args = ("run", *options, "--", "sh", "-c", shell)
        with started(*args, stdin=-1, pass_fds=(writer,)) as script:
            os.close(writer)
            assert beat(sock) == HEARTBEAT
            assert script.end() == (0, "", "mine\n")
        assert names(read_until(reader.fileno(), lambda _: False)) == ONE_SHOT


def test_a_fifo_needs_no_reader_and_keeps_what_came_before_it(sock: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    with started("--keep", "-l", f"unix:{sock}", "--events", str(fifo)) as script:
        for seen in (["listening", "connected", "heartbeat"], ["connected", "heartbeat"]):
            assert beat(sock) == HEARTBEAT
            with fifo.open("rb", buffering=0) as reader:  # another one each time
                text = read_until(
                    reader.fileno(), lambda read: b"heartbeat" in read and read.endswith(b"\n")
                )
            assert names(text) == seen
        script.popen.terminate()
        assert script.end() == (143, "", "")


def test_a_reader_that_never_comes_delays_no_heartbeat(sock: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    with started("--keep", "-l", f"unix:{sock}", "--events", str(fifo)) as script:
        for _ in range(1500):  # 330 KiB
            assert beat(sock) == HEARTBEAT
        script.popen.terminate()
        code, out, err = script.end()
    assert (code, out) == (143, "")
    message, _remedy = err.splitlines()
    assert re.search(rf"dropped \d+ lines for --events {fifo}: ", message)


@pytest.mark.parametrize("command", ["serve", "run"])
def test_a_full_disk_is_reported_once(command: str, sock: Path) -> None:
    options = ("--events", "/dev/full", "-l", f"unix:{sock}")
    launched = () if command == "serve" else ("--", "cat")
    with started(command, *options, *launched, stdin=-1) as script:
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, out, len(err.splitlines())) == (0, "", 2)
    assert f"--events /dev/full: {FULL} (ENOSPC); " in err


@pytest.mark.parametrize("command", ["serve", "run"])
def test_a_file_that_cannot_be_written_is_an_error_at_the_start(
    command: str, sock: Path, tmp_path: Path
) -> None:
    launched = () if command == "serve" else ("--", "touch", str(tmp_path / "launched"))
    (tmp_path / "a b").mkdir()
    for name, shown, number in (("a b", '"{}"', errno.EISDIR), ("x/y", "{}", errno.ENOENT)):
        path = str(tmp_path / name)
        code, out, err = nitrohb_here(
            command, "-l", f"unix:{sock}", "--events", path, "--timeout", "9", *launched
        )
        assert (code, out) == (1, "")
        why = f"{os.strerror(number)} ({errno.errorcode[number]})"
        assert f"--events {shown.format(path)}: {why}\n" in err
        assert os.listdir(tmp_path) == ["a b"]


def test_the_file_of_another_server_is_not_emptied(sock: Path, tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.write_text("of another server")
    with listening(sock):
        assert nitrohb_here("-l", f"unix:{sock}", "--events", str(events))[0] == 1
    assert events.read_text() == "of another server"


def test_lines_of_events_that_nobody_reads_are_counted_when_a_reader_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_QUEUE_MAX", 4096)
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    with open(tmp_path / "err", "w") as err, redirect_stderr(err):
        output = Output()
        output.open_events(str(fifo))
        while not output.events.has_dropped_lines:
            output.write_events("x" * 1000)
        with fifo.open("rb", buffering=0) as reader:
            while select.select([reader], [], [], 0)[0] and reader.read(4096):
                output.flush(output.events)
        output.close()
    message, _remedy = (tmp_path / "err").read_text().splitlines()
    assert f"dropped 1 line for --events {fifo}: " in message


# The descriptor that gets a newline when all addresses listen.


@pytest.mark.parametrize("command", ["serve", "run"])
def test_ready_is_written_when_every_address_listens(
    command: str, sock: Path, tmp_path: Path
) -> None:
    socks = [sock, tmp_path / "t"]
    listen = [arg for each in socks for arg in ("-l", f"unix:{each}")]
    with pipe() as (reader, writer):
        shell = f"[ ! -e /dev/fd/{writer} ] && cat"
        launched = () if command == "serve" else ("--", "sh", "-c", shell)
        args = (command, "--quiet", *listen, "--ready-fd", str(writer), *launched)
        with started(*args, stdin=-1, pass_fds=(writer,)) as script:
            os.close(writer)
            assert read_until(reader.fileno(), lambda _: False) == "\n"  # and it is closed
            for each in socks:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(PATIENCE)
                    client.connect(str(each))  # at the first attempt
                    client.sendall(HEARTBEAT)
                    assert client.recv(1) == HEARTBEAT
            assert script.end() == (0, "", "")


def test_ready_is_not_written_if_it_cannot_listen(sock: Path) -> None:
    with pipe() as (reader, writer):
        args = ("-l", f"unix:{sock}", "-l", "unix:/missing/s", "--ready-fd", str(writer))
        assert nitrohb_here(*args)[0] == 1
        os.close(writer)
        assert reader.read() == b""


@pytest.mark.parametrize("is_full", [False, True])
def test_a_descriptor_that_cannot_be_written_is_a_warning(is_full: bool, sock: Path) -> None:
    with pipe() as (reader, writer):
        if is_full:
            os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)))
        else:
            reader.close()
        assert_warned(writer, f"unix:{sock}", sock)
        os.close(writer)


def test_a_listening_socket_as_ready_fd_still_listens(sock: Path) -> None:
    with listening(sock) as server:
        assert_warned(server.fileno(), f"fd:{server.fileno()}", sock)


def assert_warned(fd: int, address: str, sock: Path) -> None:
    """Check that the server warns, and answers anyway."""
    args = ("--quiet", "-l", address, "--ready-fd", str(fd))
    with started(*args, pass_fds=(fd,)) as script:
        assert beat(sock) == HEARTBEAT
        code, out, err = script.end()
    assert (code, out, len(err.splitlines())) == (0, "", 2)
    assert f"--ready-fd {fd}: " in err
    assert "nothing more" not in err


@pytest.mark.parametrize("option", ["--events fd:{}", "--ready-fd {}"])
def test_a_descriptor_for_reading_is_refused(option: str) -> None:
    with pipe() as (reader, writer):
        os.close(writer)
        code, out, err = nitrohb_here(*option.format(reader.fileno()).split())
        assert (code, out) == (2, "")
        assert f"{option.split()[0]}: descriptor {reader.fileno()} " in err


def test_events_and_ready_need_two_descriptors() -> None:
    with pipe() as (_, writer):
        code, out, err = nitrohb_here("--events", f"fd:{writer}", "--ready-fd", str(writer))
        os.close(writer)
    assert (code, out) == (2, "")
    assert f"--events and --ready-fd cannot share descriptor {writer}" in err
