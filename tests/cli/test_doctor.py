# SPDX-License-Identifier: Apache-2.0
"""``nitrohb doctor``: what it prints, and where."""

import contextlib
import errno
import fcntl
import json
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nitrohb.cli import diagnosis
from nitrohb.doctor.report import Check, Finding, Report, Verdict

from .process import (
    NITROHB,
    Script,
    listening,
    nitrohb,
    nitrohb_here,
    read_until,
    started,
    wait_for,
)

WITHOUT_RICH = (
    *(sys.executable, "-W", "error", "-c"),
    "import sys; sys.modules['rich'] = None; from nitrohb.cli import main; sys.exit(main())",
)


@contextmanager
def on_terminal(
    *args: str, columns: int, command: tuple[str, ...] = NITROHB
) -> Generator[tuple[Script, int]]:
    ours, theirs = os.openpty()
    env = {"COLUMNS": str(columns), "TERM": "xterm-256color", "NO_COLOR": ""}
    try:
        with started(*args, command=command, stdout=theirs, env=env) as script:
            os.close(theirs)
            yield script, ours
    finally:
        os.close(ours)


def screen(*args: str, columns: int, command: tuple[str, ...] = NITROHB) -> str:
    """Everything that is written on a terminal of some width."""
    with on_terminal(*args, columns=columns, command=command) as (script, terminal):
        written = read_until(terminal, lambda read: False).replace("\r\n", "\n")
        code, _, err = script.end()
    assert (code, err) == (0, "")
    return written


def plain(written: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", written)


def test_lines_where_nobody_watches(sock: Path, tmp_path: Path) -> None:
    code, out, err = nitrohb("doctor", "-l", f"unix:{sock}", env={"TMPDIR": str(tmp_path)})
    assert (code, err) == (0, "")
    first, *lines, last = out.splitlines()
    assert first == f"ok       listen unix:{sock}: it can be listened on (tried, and undone)"
    assert last == f"nitrohb serve can listen on unix:{sock}."
    assert all(re.match(r"(ok|info|warning|skipped) +\S|         -> \S", line) for line in lines)
    assert any(re.match(r"ok +self-test, Unix: .* answered in \d+\.\d ms", line) for line in lines)
    assert os.listdir(tmp_path) == []


def test_a_self_test_that_fails_is_a_failure_as_the_help_says(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nitrohb.doctor.selftest.beat_over_unix", lambda: "no answer")
    code, out, err = nitrohb_here("doctor", "-l", f"unix:{sock}")
    assert (code, err) == (1, "")
    assert f"ok       listen unix:{sock}: " in out
    assert "1 an address or the self-test failed," in nitrohb("doctor", "--help")[1]


def test_json_has_names_that_stay(sock: Path) -> None:
    code, out, err = nitrohb("doctor", "-l", f"unix:{sock}", "--format", "json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert [*report] == ["overall", "nitrohb", "python", "kernel", "checks"]
    assert report["overall"] == "ok"
    assert report["checks"][0] == {
        "name": "listen",
        "subject": f"unix:{sock}",
        "verdict": "ok",
        "evidence": "it can be listened on (tried, and undone)",
        "remedy": None,
    }
    assert all([*check] == [*report["checks"][0]] for check in report["checks"])


def test_an_address_that_is_taken_fails_and_its_holder_is_named(sock: Path) -> None:
    with listening(sock):
        code, out, err = nitrohb("doctor", "-l", f"unix:{sock}")
        assert sock.exists()
    comm = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert (code, err) == (1, "")
    assert out.splitlines()[:2] == [
        f"failed   listen unix:{sock}: another process listens there (EADDRINUSE);"
        f" held by process {os.getpid()} ({comm})",
        "         -> Stop it, or choose another path. (Its socket file was left alone.)",
    ]
    assert out.endswith("\nnitrohb serve would fail here: see above what has failed.\n")


def test_a_warning_is_no_failure(sock: Path) -> None:
    args = ("-l", f"unix:{sock}", "--max-pending", "4294967290")
    code, out, _ = nitrohb_here("doctor", *args)
    assert "\nwarning  open files: " in out
    assert out.endswith(f"nitrohb serve can listen on unix:{sock}, but see the warnings.\n")
    assert code == 0


@pytest.mark.parametrize("columns", [72, 80, 200])
def test_a_table_on_a_terminal(columns: int, sock: Path) -> None:
    written = screen("doctor", "-l", f"unix:{sock}", columns=columns)
    assert "\x1b[32mok" in written
    lines = plain(written).splitlines()
    assert lines[1].split() == ["verdict", "check", "finding"]
    assert "─────" in lines[2]
    assert max(map(len, lines)) <= columns
    assert "it can be listened on" in " ".join(plain(written).split())


@pytest.mark.parametrize(
    ("columns", "command"), [(40, NITROHB), (80, WITHOUT_RICH)], ids=["narrow", "without rich"]
)
def test_wrapped_lines_where_there_can_be_no_table(
    columns: int, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = screen("doctor", "-l", "unix:s", columns=columns, command=command)
    assert "\x1b" not in written
    first, *_, last = lines = written.splitlines()
    assert first.startswith("ok       listen unix:s: it can be")
    assert last.endswith("nitrohb serve can listen on unix:s.")
    assert max(map(len, lines)) <= columns
    assert os.listdir(tmp_path) == []


def report(subject: str, evidence: str) -> Report:
    return Report([Check("listen", "listen", subject, Finding(Verdict.OK, evidence, "do [this]"))])


def test_brackets_are_text_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    text = plain(diagnosis.to_text(report("unix:[red]/[/]", "[bold]")))
    assert "unix:[red]/[/]" in text
    assert "[bold]" in text
    assert "-> do [this]" in text


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (
            errno.EMFILE,
            "this process has too many open files (EMFILE)\nRaise its limit (ulimit -n).",
        ),
        (errno.EPERM, "[Errno 1] refused"),
    ],
)
def test_trio_cannot_begin(number: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many descriptors it needs differs from version to version."""

    def run(*_: object) -> int:
        raise OSError(number, "refused")

    monkeypatch.setattr("trio.run", run)
    message = f"nitrohb: the examination cannot begin: {why}\n"
    assert nitrohb_here("doctor") == (1, "", message)


def test_more_addresses_than_descriptors(tmp_path: Path) -> None:
    command = ("sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *NITROHB)
    listens = [arg for number in range(40) for arg in ("-l", f"unix:{tmp_path}/{number}")]
    with started("doctor", "--format", "json", *listens, command=command) as script:
        code, out, err = script.end()
    assert (code, err) == (1, "")
    first, *_, last = (check for check in json.loads(out)["checks"] if check["name"] == "listen")
    assert first["verdict"] == "ok"
    assert last["subject"] == f"unix:{tmp_path}/39"
    assert last["verdict"] == "failed"
    assert last["evidence"] == "this process has too many open files (EMFILE)"
    assert last["remedy"] == "Raise its limit (ulimit -n)."
    assert '"self-test-unix"' in out
    assert os.listdir(tmp_path) == []


def test_a_signal_ends_it_and_no_file_is_left(sock: Path, tmp_path: Path) -> None:
    """It comes while a check waits for a lock, which takes it a second."""
    with listening(sock):
        pass  # a dead socket, which cannot be replaced meanwhile
    (tmp_path / "tmp").mkdir()
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    args = ("doctor", "-l", f"unix:{sock}")
    with started(*args, env={"TMPDIR": str(tmp_path / "tmp")}) as script:
        wait_for(lambda: str(tmp_path) in open_files(script.popen.pid))
        script.popen.terminate()
        assert script.end() == (143, "", "")
    os.close(lock)
    assert sorted(os.listdir(tmp_path)) == [sock.name, "tmp"]
    assert os.listdir(tmp_path / "tmp") == []


def open_files(pid: int) -> set[str]:
    found: set[str] = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found
