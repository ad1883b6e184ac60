# SPDX-License-Identifier: Apache-2.0
"""``nitrohb doctor``: what it prints, and how it ends."""

import contextlib
import errno
import fcntl
import json
import os
import re
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from nitrohb import Address, Listener, VsockAddress
from nitrohb.addresses import CID_ANY
from nitrohb.cli.doctor import to_text
from nitrohb.doctor.probes import Enclaves
from nitrohb.doctor.verdicts import CheckResult, Finding, Verdict

from .process import NITROHB, listening, nitrohb, nitrohb_here, read_until, started, wait_for


def test_lines_without_a_terminal(
    sock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = nitrohb_here("doctor", "-l", f"unix:{sock}")
    assert (code, err) == (0, "")
    answer, first, *lines = out.splitlines()
    assert answer == f"Yes: the heartbeat of an enclave can arrive on unix:{sock}."
    assert first.startswith(f"ok       listen unix:{sock}: ")
    assert all(re.match(r"(ok|info|warning|skipped) +\S|         -> \S", line) for line in lines)
    assert any(re.match(r"ok +self-test, Unix: .* answered in \d+\.\d ms", line) for line in lines)
    assert os.listdir(tmp_path) == []


def test_a_self_test_that_fails_is_a_failure(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nitrohb.doctor.selftest.beat_over_unix", lambda: "no answer")
    code, out, err = nitrohb_here("doctor", "-l", f"unix:{sock}")
    assert (code, err) == (1, "")
    assert out.startswith("No: self-test, Unix: a heartbeat was not answered: no answer.\n")
    assert f"ok       listen unix:{sock}: " in out


def test_json_has_names_that_stay(sock: Path) -> None:
    code, out, err = nitrohb_here("doctor", "-l", f"unix:{sock}", "--format", "json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert [*report] == ["overall", "nitrohb", "python", "kernel", "checks"]
    assert report["overall"] == "ok"
    first = report["checks"][0]
    assert (first["name"], first["subject"], first["verdict"], first["remedy"]) == (
        "listen",
        f"unix:{sock}",
        "ok",
        None,
    )
    names = ["name", "subject", "verdict", "evidence", "remedy"]
    assert all([*check] == names for check in report["checks"])


def test_an_address_that_is_taken_fails_and_its_holder_is_named(sock: Path) -> None:
    with listening(sock):
        code, out, err = nitrohb("doctor", "-l", f"unix:{sock}")
        assert sock.exists()
    comm = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert (code, err) == (1, "")
    answer, failure, remedy, *_ = out.splitlines()
    assert answer.startswith(f"No: nitrohb cannot listen on unix:{sock}: ")
    assert failure.startswith(f"failed   listen unix:{sock}: ")
    assert "(EADDRINUSE)" in failure
    assert failure.endswith(f"held by process {os.getpid()} ({comm})")
    assert remedy.startswith("         -> ")


@pytest.mark.parametrize(
    ("args", "code", "answer", "why"),
    [
        ("", 1, "No: nitrohb can listen on {}, but the heartbeat of an enclave", "CID 1 or 2 or 3"),
        ("--for nitro", 1, "No: nitrohb can listen on {}, but the heartbeat of a real", "CID 3"),
        ("--for firecracker", 1, "No: nitrohb can listen on {}, but", "Unix socket"),
        ("3", 0, "Perhaps: nitrohb can listen on {}, but", "sibling VMs"),
        ("--for qemu 1", 0, "Yes: the heartbeat of a QEMU guest can arrive on {}", ""),
        ("--for nitro 1", 1, "No: nitrohb can listen on {}, but the heartbeat of a real", "CID 3"),
    ],
)
def test_the_first_line_answers_for_a_machine_with_some_cids(
    args: str, code: int, answer: str, why: str, sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor takes it for an AF_VSOCK socket. tests/vsock has real ones."""
    words = args.split()
    mine = [int(words.pop())] if words and words[-1].isdigit() else []
    is_parent = mine == [3]

    def errno_of_bind(cid: int) -> int:
        return 0 if cid in mine else errno.EADDRNOTAVAIL

    def enclaves() -> Enclaves:
        return Enclaves.DISABLED if is_parent else Enclaves.UNKNOWN

    def where_bound(_: Listener) -> Address:
        return VsockAddress(CID_ANY, 9000)

    monkeypatch.setattr("nitrohb.doctor.examine.where_bound", where_bound)
    monkeypatch.setattr("nitrohb.doctor.probes.bind_errno", errno_of_bind)
    monkeypatch.setattr("nitrohb.doctor.probes.enclaves", enclaves)
    ended, out, err = nitrohb_here("doctor", "-l", f"unix:{sock}", *words)
    assert (ended, err) == (code, "")
    first = out.splitlines()[0]
    assert first.startswith(answer.format(f"unix:{sock}"))
    assert why in first


def test_it_says_how_to_admit_a_vmm_of_another_user(sock: Path) -> None:
    listen = ("doctor", "-l", f"hybrid:{sock}:9000")
    _, out, _ = nitrohb_here(*listen)
    assert f"{sock}_9000 has mode 600, owner {os.getuid()}" in out
    assert "--socket-mode 660 --socket-group GROUP" in out
    code, out, _ = nitrohb_here(*listen, "--socket-mode", "660", "--socket-group", str(os.getgid()))
    assert (code, "--socket-group" in out) == (0, False)
    assert f"{sock}_9000 has mode 660, owner {os.getuid()} and group {os.getgid()}" in out


def test_a_warning_is_not_a_failure(sock: Path) -> None:
    args = ("-l", f"unix:{sock}", "--max-pending", "4294967290")
    code, out, _ = nitrohb_here("doctor", *args)
    assert "\nwarning  open files: " in out
    assert out.partition("\n")[0].endswith(f"can arrive on unix:{sock}, but see the warnings.")
    assert code == 0


def test_lines_fit_a_terminal(sock: Path) -> None:
    ours, theirs = os.openpty()
    try:
        args = ("doctor", "-l", f"unix:{sock}")
        with started(*args, stdout=theirs, env={"COLUMNS": "80"}) as script:
            os.close(theirs)
            written = read_until(ours, lambda read: False).replace("\r\n", "\n")
            assert script.end() == (0, "", "")
    finally:
        os.close(ours)
    assert max(map(len, written.splitlines())) <= 80
    assert f" can arrive on unix:{sock}. " in " ".join(written.split())


def test_lines_are_wrapped_to_a_width() -> None:
    finding = Finding(Verdict.OK, "word " * 50, "do this")
    checks = [CheckResult("listen", "listen", "unix:x", finding)]
    text = to_text(checks, None, 40)
    _, _, first, second, *_ = text.splitlines()
    assert first.startswith("ok       listen unix:x: word")
    assert second.startswith("         word")
    assert 31 < max(map(len, text.splitlines())) <= 40
    assert text.split() == to_text(checks, None, None).split()
    assert len(to_text(checks, None, None).splitlines()) == 3


# When something is missing, or a signal comes.


def test_trio_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many descriptors it needs differs from version to version."""
    for number, why in ((errno.EMFILE, "(EMFILE)\nRaise its limit"), (errno.EPERM, "refused")):
        error = OSError(number, "refused")
        with monkeypatch.context() as failing:
            failing.setattr("trio.run", Mock(side_effect=error))
            code, out, err = nitrohb_here("doctor")
        assert (code, out) == (1, "")
        assert err.startswith("nitrohb: cannot begin the checks: ")
        assert why in err


def test_more_addresses_than_descriptors(tmp_path: Path) -> None:
    command = ("sh", "-c", 'ulimit -n 32; exec "$@"', "sh", *NITROHB)
    listens = [arg for number in range(40) for arg in ("-l", f"unix:{tmp_path}/{number}")]
    with started("doctor", "--format", "json", *listens, command=command) as script:
        code, out, err = script.end()
    assert (code, err) == (1, "")
    first, *_, last = (check for check in json.loads(out)["checks"] if check["name"] == "listen")
    assert first["verdict"] == "ok"
    assert (last["subject"], last["verdict"]) == (f"unix:{tmp_path}/39", "failed")
    assert "(EMFILE)" in last["evidence"]
    assert "ulimit -n" in last["remedy"]
    assert '"self-test-unix"' in out
    assert os.listdir(tmp_path) == []


def test_a_signal_ends_it_and_no_file_is_left(sock: Path, tmp_path: Path) -> None:
    """The signal arrives while a check waits one second for a lock."""
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
