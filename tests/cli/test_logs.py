# SPDX-License-Identifier: Apache-2.0
"""Log lines: text and JSON, levels, and priorities for the journal."""

import json
import os
import re
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb import (
    Address,
    Connected,
    Disconnected,
    Done,
    Event,
    Evicted,
    Heartbeat,
    Listening,
    Lost,
    Rejected,
    RejectReason,
    UnixAddress,
    UnixPeer,
    Unlistened,
)
from nitrohb.cli.answer import up_to_level
from nitrohb.cli.output import LEVELS, Stream, printable, quoted
from nitrohb.cli.report import level_of, to_json, to_text

from .events import ANY, made
from .process import HEARTBEAT, PATIENCE, beat, connected, nitrohb_here, redirected, started

PEERS = "address=vsock::9000 cid=16 peer=vsock:16:1234"
TIMES = "listening_seconds=75.040000 echo_seconds=0.000050"
LOSS = 'a "b"\nc'

EXAMPLES: list[tuple[Event, str]] = [
    (made(Listening), "nitro_listening address=vsock::9000 level=info"),
    (made(Connected), f"nitro_connected {PEERS} level=debug"),
    (
        made(Connected, address=UnixAddress("/run/x"), peer=UnixPeer(7, 8, 9)),
        "nitro_connected address=unix:/run/x pid=7 uid=8 gid=9 level=debug",
    ),
    (
        made(Connected, address=UnixAddress("/run/x"), peer=UnixPeer(None, 8, 9)),
        "nitro_connected address=unix:/run/x uid=8 gid=9 level=debug",
    ),
    (
        made(Evicted, address=UnixAddress("/run/x"), peer=UnixPeer(7, 0, 9)),
        "nitro_evicted address=unix:/run/x pid=7 uid=0 gid=9 level=warning",
    ),
    (made(Disconnected), f"nitro_disconnected {PEERS} level=warning"),
    (made(Evicted), f"nitro_evicted {PEERS} level=warning"),
    (made(Done), "nitro_done address=vsock::9000 level=info"),
    (made(Unlistened), "nitro_unlistened address=vsock::9000 level=info"),
    (made(Heartbeat), f"nitro_heartbeat {PEERS} byte=0xb7 {TIMES} echoed=true level=info"),
    (
        made(Heartbeat, byte=0, echoed=False),
        f"nitro_heartbeat {PEERS} byte=0x00 {TIMES} echoed=false level=info",
    ),
    (
        made(Rejected, reason=RejectReason.WRONG_BYTE, byte=0x0A),
        f"nitro_rejected {PEERS} reason=wrong-byte byte=0x0a level=warning",
    ),
    (
        made(Rejected, reason=RejectReason.CID),
        f"nitro_rejected {PEERS} reason=cid level=warning",
    ),
    (
        made(Lost, address=UnixAddress("x"), replaced=True, problem=LOSS),
        r'nitro_lost address=unix:x replaced=true problem="a \"b\"\u000ac" level=warning',
    ),
]


def test_text_and_level_of_every_event() -> None:
    assert {type(event) for event, _ in EXAMPLES} == set(get_args(Event))
    for event, text in EXAMPLES:
        assert to_text(event) == f"2026-01-02T03:04:05.006789Z {text}"
        level = json.loads(to_json(event))["level"]
        assert LEVELS[level] == level_of(event)
        assert text.endswith(f" level={level}")


def parsed(line: str) -> dict[str, str]:
    """Read a line of text as logfmt readers do. A key alone has no value."""
    fields: dict[str, str] = {}
    rest = line
    while rest:
        found = re.match(r'([^\s="]+)(?:=("(?:[^"\\]|\\.)*"|[^\s="]*))?(?: |$)', rest)
        assert found is not None, rest
        key, value = found[1], found[2] or ""
        assert key not in fields
        fields[key] = json.loads(value) if value.startswith('"') else value
        rest = rest[found.end() :]
    return fields


def addresses() -> st.SearchStrategy[Address]:
    """Also paths that are not text, and paths that imitate other fields."""
    paths = st.one_of(
        st.text(min_size=1, max_size=26),
        st.binary(min_size=1, max_size=100).map(os.fsdecode),
        st.sampled_from(['a" cid="1', "a cid=1", "a\\", '\\"', "a=b", " ", "\u2028", "\u202e"]),
    )
    return paths.map(path_address)


def path_address(path: str) -> Address:
    try:
        return UnixAddress(path)
    except ValueError:
        return ANY


@given(address=addresses(), byte=st.integers(0, 255), echoed=st.booleans())
def test_a_line_is_parsed_to_the_same_values(address: Address, byte: int, echoed: bool) -> None:
    event = made(Heartbeat, address=address, byte=byte, echoed=echoed)
    line = to_text(event)
    assert line.isprintable()
    fields = parsed(line)
    assert list(fields)[:2] == ["2026-01-02T03:04:05.006789Z", "nitro_heartbeat"]
    wanted = event.to_json()
    shown = [name for name, value in wanted.items() if value is not None]
    assert list(fields)[2:] == [*shown[2:], "level"]
    assert fields["address"] == str(address)
    assert (int(fields["byte"], 16), json.loads(fields["echoed"])) == (byte, echoed)
    for number in ("cid", "listening_seconds", "echo_seconds"):
        assert float(fields[number]) == wanted[number]


@given(st.text(st.characters(exclude_categories=[])))
def test_no_value_breaks_a_line_or_a_field(text: str) -> None:
    assert printable(text).isprintable()
    assert quoted(text).isprintable()
    assert list(parsed(f"a={quoted(text)} b=1")) == ["a", "b"]
    if not any("\ud800" <= char <= "\udbff" for char in text):  # which JSON may join to a pair
        assert parsed(f"a={quoted(text)} b=1") == {"a": text, "b": "1"}


def test_log_level_chooses_events() -> None:
    for level in LEVELS.values():
        shown: list[Event] = []
        for event, _ in EXAMPLES:
            up_to_level(level, shown.append)(event)
        assert shown == [event for event, _ in EXAMPLES if level_of(event) <= level]


@pytest.mark.parametrize("command", ["serve", "run"])
def test_log_level_of_a_command(command: str, sock: Path) -> None:
    options = ("-l", f"unix:{sock}", "--log-level", "info", "--format", "json")
    launched = () if command == "serve" else ("--", "cat")
    with started(command, *options, *launched, stdin=subprocess.PIPE) as script:
        assert beat(sock, b"\0") == b""
        assert beat(sock) == HEARTBEAT
        _, out, err = script.end()
    lines = (out if command == "serve" else err).splitlines()
    names = [json.loads(line)["event"] for line in lines if line.startswith("{")]
    assert names == ["listening", "rejected", "heartbeat", "done"]


def test_log_level_error_leaves_only_errors_on_stderr(sock: Path) -> None:
    options = ("-l", f"unix:{sock}", "--log-level", "error")
    with started(*options, command=redirected(">/dev/full")) as script:
        assert beat(sock) == HEARTBEAT
        assert script.end() == (0, "", "")
    assert nitrohb_here(*options, "--timeout", "0.01")[2].startswith("nitrohb: no heartbeat on ")


@contextmanager
def journal() -> Generator[tuple[socket.socket, socket.socket, dict[str, str]]]:
    """What a service has: its end of a connection to the journal, and the name of that.

    Yields:
        The journal's end, the service's, and what the service finds in its environment.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        status = os.fstat(theirs.fileno())
        yield ours, theirs, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def entries(ours: socket.socket) -> tuple[list[int], list[str]]:
    """What the journal reads: priorities and messages."""
    with ours.makefile(encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    assert all(re.match("<[0-7]>", line) for line in lines), lines
    return [int(line[1]) for line in lines], [line[3:] for line in lines]


def test_journal_gets_the_priority_of_every_event(sock: Path) -> None:
    with journal() as (ours, theirs, env):
        args = ("-l", f"unix:{sock}", "--format", "json")
        with started(*args, stdout=theirs.fileno(), env=env) as script:
            theirs.close()
            with connected(sock):
                pass
            assert beat(sock) == HEARTBEAT
            assert script.end() == (0, "", "")
        priorities, messages = entries(ours)
    names = ["listening", "connected", "disconnected", "connected", "heartbeat", "done"]
    assert [json.loads(message)["event"] for message in messages] == names
    assert priorities == [6, 7, 4, 7, 6, 6]


@pytest.mark.parametrize(
    ("args", "code", "named"),
    [(("-l", "unix:/nonexistent/s"), 1, "ENOENT"), (("--port", "1"), 2, "--port 1")],
)
def test_journal_gets_the_priority_of_every_line_of_an_error(
    args: tuple[str, ...], code: int, named: str
) -> None:
    with journal() as (ours, theirs, env):
        with started(*args, stderr=theirs.fileno(), env=env) as script:
            theirs.close()
            assert script.end() == (code, "", "")
        priorities, (message, _remedy) = entries(ours)
    assert priorities == [3, 3]
    assert named in message


def test_journal_gets_the_priorities_of_the_events_of_run_and_not_of_its_command(
    sock: Path,
) -> None:
    with journal() as (ours, theirs, env):
        args = ("run", "-l", f"unix:{sock}", "--", "sh", "-c", "echo its own >&2; exit 1")
        with started(*args, stderr=theirs.fileno(), env=env) as script:
            theirs.close()
            assert script.end()[0] == 125
        with ours.makefile(encoding="utf-8") as stream:
            lines = stream.readlines()
    assert [line[:3] for line in lines] == ["<6>", "its", "<3>", "<3>"]


def test_another_stream_than_the_journal_s_gets_no_priorities(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Child processes inherit JOURNAL_STREAM even if their output goes elsewhere."""
    for name in ("", "0:0", "journal"):
        monkeypatch.setenv("JOURNAL_STREAM", name)
        code, out, err = nitrohb_here("-l", f"unix:{sock}", "--timeout", "0.01")
        assert (code, "<" in out + err) == (124, False), name
        assert " nitro_listening " in out


def test_a_closed_stream_is_not_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not Stream(None).is_journal
    with open(os.devnull) as stream:
        assert not Stream(stream).is_journal
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w")  # noqa: SIM115
    os.close(writer)
    assert not Stream(stream).is_journal
    with pytest.raises(OSError, match="Bad file descriptor"):
        stream.close()
