# SPDX-License-Identifier: Apache-2.0
"""``nitrohb send`` and ``nitrohb demo``."""

import errno
import os
import re
import signal
import tempfile
from pathlib import Path

import pytest
import trio

from nitrohb import PARENT_CID, Address, VsockAddress

from .peer import answering
from .process import HEARTBEAT, listening, nitrohb_here, started


def test_send_tells_how_long_the_answer_took(tmp_path: Path) -> None:
    with answering(tmp_path / "vm_9000", HEARTBEAT, HEARTBEAT) as received:
        code, out, err = nitrohb_here("send", f"hybrid:{tmp_path}/vm:9000")
    assert (code, err, received) == (0, "", [HEARTBEAT])
    assert re.fullmatch(rf"hybrid:{tmp_path}/vm:9000 answered in \d+\.\d ms\n", out)


def test_send_without_a_listener_says_what_to_start(sock: Path) -> None:
    code, out, err = nitrohb_here("send", f"unix:{sock}")
    assert (code, out) == (1, "")
    message, remedy = err.splitlines()
    assert f"cannot connect to unix:{sock}: " in message
    assert "(ENOENT)" in message
    assert remedy.endswith(f"nitrohb serve -l unix:{sock}")


def test_send_to_a_silent_parent_times_out(sock: Path) -> None:
    with listening(sock):  # it never accepts
        code, out, err = nitrohb_here("send", f"unix:{sock}", "--timeout", "0.1")
    assert (code, out) == (124, "")
    message, hint = err.splitlines()
    assert message == f"nitrohb: unix:{sock} did not answer within 0.1 s"
    assert hint


def test_send_is_ended_by_a_signal(sock: Path) -> None:
    with listening(sock) as server, started("send", f"unix:{sock}", "--timeout", "30") as script:
        conn, _ = server.accept()
        with conn:
            assert conn.recv(2) == HEARTBEAT
            script.popen.terminate()
            assert script.end() == (143, "", "")


def test_send_goes_to_the_parent_of_an_enclave_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answered(address: VsockAddress, *, timeout: float) -> float:
        assert (address, timeout) == (VsockAddress(PARENT_CID, 9000), 5.0)
        return 0.0012

    monkeypatch.setattr("nitrohb.cli.send.send_heartbeat", answered)
    assert nitrohb_here("send") == (0, "vsock:3:9000 answered in 1.2 ms\n", "")


def test_demo_shows_both_sides_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = nitrohb_here("demo")
    assert (code, err) == (0, "")
    parent = [line.split()[2] for line in out.splitlines() if line.startswith("parent")]
    assert parent == [f"nitro_{name}" for name in ("listening", "connected", "heartbeat", "done")]
    enclave = " ".join(line for line in out.splitlines() if line.startswith("enclave"))
    assert re.search(r"sends 0xB7 .* got 0xB7 back after \d+\.\d ms", enclave)
    assert f"unix:{tmp_path}/" in out
    assert os.listdir(tmp_path) == []


def test_an_interrupted_demo_does_not_print_a_whole_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: Address) -> float:
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    monkeypatch.setattr("nitrohb.cli.demo.send_heartbeat", interrupted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = nitrohb_here("demo")
    assert (code, err) == (130, "")
    assert out.splitlines()[-1] == "enclave  boots: its init connects and sends 0xB7"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.EMFILE, "ulimit -n"), (errno.ENOENT, "TMPDIR=")]
)
def test_demo_that_cannot_create_its_socket(
    number: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    code, out, err = nitrohb_here("demo")
    assert (code, out) == (1, "")
    assert os.strerror(number).lower() in err.lower()
    assert remedy in err


def test_demo_in_a_directory_with_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 108)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    code, out, err = nitrohb_here("demo")
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "TMPDIR=" in err
    assert os.listdir(long) == []
