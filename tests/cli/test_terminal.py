# SPDX-License-Identifier: Apache-2.0
"""The status line on a terminal, and that nothing of it remains."""

import os
import pty
import re
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from nitrohb.cli.output import Output
from nitrohb.cli.printer import status_line

from .process import HEARTBEAT, Script, beat, listening, read_until, started


@contextmanager
def on_terminal(
    *args: str, stdout: int | None = None, term: str = "xterm"
) -> Generator[tuple[Script, int]]:
    """Start nitrohb on a terminal, and yield the end of the user."""
    ours, theirs = pty.openpty()
    try:
        env = {"TERM": term}
        with started(*args, stdout=stdout or theirs, stderr=theirs, env=env) as script:
            os.close(theirs)
            yield script, ours
    finally:
        os.close(ours)


def on_screen(written: str) -> str:
    """What stays on the screen of a terminal on which only the clearing of a line moves the cursor.

    The status line must not wrap: between its two marks, and only there, that is switched off.
    """
    left = re.sub(r"[^\n]*\r\x1b\[K", "", written.replace("\r\n", "\n"))
    return re.sub(r"\x1b\[\?7l(.*)\x1b\[\?7h", r"\1", left)


def watch(terminal: int, what: str) -> str:
    """Wait for a text on a terminal, and return all output up to it."""
    return read_until(terminal, lambda read: read.endswith(what.encode()), repr(what))


def rest(terminal: int) -> str:
    """All output on a terminal until the script ends."""
    return read_until(terminal, lambda read: False, "the end of the script")


def test_the_waiting_line_is_cleared_when_the_wait_is_over(sock: Path) -> None:
    with on_terminal("-l", f"unix:{sock}", stdout=subprocess.PIPE) as (script, terminal):
        written = watch(terminal, f"on unix:{sock}\x1b[?7h")
        assert on_screen(written) == f"0:00 waiting for a heartbeat on unix:{sock}"
        assert beat(sock) == HEARTBEAT
        assert on_screen(written + rest(terminal)) == ""
        code, out, _ = script.end()
    assert (code, len(out.splitlines())) == (0, 4)
    assert "waiting for" not in out
    assert "\x1b" not in out


def test_no_waiting_line_on_a_terminal_that_cannot_clear_lines(sock: Path) -> None:
    args = ("-l", f"unix:{sock}", "--quiet", "--timeout", "0.1")
    with on_terminal(*args, stdout=subprocess.PIPE, term="dumb") as (script, terminal):
        written = rest(terminal)
        assert script.end()[0] == 124
    assert written.startswith("nitrohb: no heartbeat on ")
    assert "\x1b" not in written


def test_waiting_line_stays_below_the_events(sock: Path) -> None:
    with on_terminal("-l", f"unix:{sock}", "--keep") as (script, terminal):
        written = watch(terminal, f"waiting for a heartbeat on unix:{sock}\x1b[?7h")
        assert beat(sock) == HEARTBEAT
        written += watch(terminal, "echoed=true level=info\r\n")
        written += watch(terminal, "\x1b[?7h")
        *events, waiting = on_screen(written).split("\n")
        assert [event.split()[1] for event in events] == [
            "nitro_listening",
            "nitro_connected",
            "nitro_heartbeat",
        ]
        assert re.fullmatch(rf"\d+:\d\d waiting for a heartbeat on unix:{sock}", waiting)
        script.popen.terminate()
        assert on_screen(written + rest(terminal)) == "".join(f"{line}\n" for line in events)
        assert script.end()[0] == 143


def test_send_shows_its_wait(sock: Path) -> None:
    with listening(sock), on_terminal("send", f"unix:{sock}", "--timeout", "0.1") as (_, terminal):
        written = watch(terminal, f"0:00 waiting for an answer from unix:{sock}\x1b[?7h")
        end = on_screen(written + rest(terminal))
    assert end.startswith(f"nitrohb: unix:{sock} did not answer within 0.1 s\n")


def test_error_clears_the_waiting_line(sock: Path) -> None:
    args = ("-l", f"unix:{sock}", "--quiet", "--timeout", "0.1")
    with on_terminal(*args, stdout=subprocess.PIPE) as (script, terminal):
        first, *_, last, end = on_screen(rest(terminal)).split("\n")
        assert script.end()[:2] == (124, "")
    nobody = f"nitrohb: no heartbeat on unix:{sock} within 0.1 s: nobody connected"
    assert first.startswith(f"{nobody}; {sock} has mode 600, ")
    assert last.endswith(f"nitrohb doctor -l unix:{sock}")
    assert end == ""


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_waiting_line_counts_the_seconds(
    is_terminal: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    with closing(Output()) as output, monkeypatch.context() as on_terminal:
        on_terminal.setattr(output, "is_terminal", is_terminal)
        on_terminal.setattr(output, "status", shown.append)
        async with status_line(output, lambda: "it"):
            await trio.sleep(61.5)
    seconds = range(62 if is_terminal else 0)
    assert shown == [f"{it // 60}:{it % 60:02} waiting for it" for it in seconds]
