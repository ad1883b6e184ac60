# SPDX-License-Identifier: Apache-2.0
"""``nitrohb send`` and ``nitrohb demo``."""

import errno
import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nitrohb import PARENT_CID, VsockAddress

from .process import (
    HEARTBEAT,
    connected,
    listening,
    nitrohb,
    nitrohb_here,
    redirected,
    started,
)


@contextmanager
def sending(sock: Path, reply: bytes) -> Generator[tuple[int, str, str]]:
    """``nitrohb send`` to a parent that sends something back, and closes."""
    with listening(sock) as server, started("send", f"unix:{sock}") as script:
        conn, _ = server.accept()
        with conn:
            assert conn.recv(2) == HEARTBEAT
            conn.sendall(reply)
        yield script.end()


def test_send_tells_how_long_the_answer_took(sock: Path) -> None:
    with sending(sock, HEARTBEAT) as (code, out, err):
        assert (code, err) == (0, "")
        assert re.fullmatch(rf"unix:{sock} answered in \d+\.\d ms\n", out)


def test_send_without_a_stdout_says_so(sock: Path) -> None:
    args = ("send", f"unix:{sock}")
    with listening(sock) as server, started(*args, command=redirected(">&-")) as script:
        conn, _ = server.accept()
        with conn:
            conn.sendall(HEARTBEAT)
            code, _, err = script.end()
    assert (code, err) == (0, "nitrohb: stdout: it is closed; nothing more is printed there\n")


def test_send_refuses_another_byte(sock: Path) -> None:
    with sending(sock, b"\x00") as result:
        assert result == (
            1,
            "",
            f"nitrohb: unix:{sock} sent 0x00, not the heartbeat 0xB7\n",
        )


def test_send_tells_that_it_was_refused(sock: Path) -> None:
    with sending(sock, b"") as result:
        assert result == (
            1,
            "",
            f"nitrohb: unix:{sock} closed the connection without sending a byte\n",
        )


def test_send_with_nobody_there_says_what_to_start(sock: Path) -> None:
    assert nitrohb("send", f"unix:{sock}") == (
        1,
        "",
        f"nitrohb: cannot connect to unix:{sock}: {sock} does not exist (ENOENT)\n"
        f"Start the listener first: nitrohb serve -l unix:{sock}\n",
    )


def test_send_to_a_silent_parent_times_out(sock: Path) -> None:
    with listening(sock):  # it never accepts
        assert nitrohb("send", f"unix:{sock}", "--timeout", "0.3") == (
            124,
            "",
            f"nitrohb: unix:{sock} did not answer within 0.3 s\n"
            "Is it a heartbeat server that listens there? It reports who connects.\n",
        )


def test_send_is_ended_by_a_signal(sock: Path) -> None:
    with listening(sock) as server, started("send", f"unix:{sock}", "--timeout", "30") as script:
        conn, _ = server.accept()
        with conn:
            assert conn.recv(2) == HEARTBEAT
            script.popen.terminate()
            assert script.end() == (143, "", "")


def test_send_and_serve_understand_each_other(sock: Path) -> None:
    with started("-l", f"hybrid:{sock}:9000", "--quiet") as server:
        with connected(Path(f"{sock}_9000")):
            pass  # it listens
        code, out, _ = nitrohb("send", f"hybrid:{sock}:9000")
        assert server.end() == (0, "", "")
    assert code == 0
    assert out.startswith(f"hybrid:{sock}:9000 answered in ")


def test_send_goes_to_the_parent_of_an_enclave_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answered(address: VsockAddress, *, timeout: float) -> float:
        assert (address, timeout) == (VsockAddress(PARENT_CID, 9000), 5.0)
        return 0.0012

    monkeypatch.setattr("nitrohb.client.send_heartbeat", answered)
    assert nitrohb_here("send") == (0, "vsock:3:9000 answered in 1.2 ms\n", "")


def test_demo_shows_both_sides_and_leaves_nothing(tmp_path: Path) -> None:
    code, out, err = nitrohb("demo", env={"TMPDIR": str(tmp_path)})
    assert (code, err) == (0, "")
    said = [line.split(maxsplit=3) for line in out.splitlines()]
    parent = [words[2] for words in said if words[0] == "parent"]
    names = ["listening", "connected", "heartbeat", "done"]
    assert parent == [f"nitro_{name}" for name in names]
    enclave = " ".join(line for line in out.splitlines() if line.startswith("enclave"))
    assert re.search(r"sends 0xB7 .* got 0xB7 back after \d+\.\d ms", enclave)
    assert f"unix:{tmp_path}/" in out
    assert os.listdir(tmp_path) == []


def test_demo_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(**_: object) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(tempfile, "mkdtemp", none_left)
    message = "nitrohb: this process has too many open files (EMFILE)\n"
    assert nitrohb_here("demo") == (1, "", f"{message}Raise its limit (ulimit -n).\n")


def test_demo_without_a_place_for_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert nitrohb_here("demo") == (
        1,
        "",
        "nitrohb: the demo finds no place for its socket: No such file or directory\n"
        "Name a directory in which you may write: TMPDIR=DIR nitrohb demo\n",
    )
