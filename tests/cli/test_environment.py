# SPDX-License-Identifier: Apache-2.0
"""What the script says when the machine does not let it listen, and that it breaks nothing then."""

import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from .process import HEARTBEAT, NITROHB, beat, listening, nitrohb, redirected, started


def refused(address: str, reason: str, remedy: str) -> tuple[int, str, str]:
    return 1, "", f"nitrohb: cannot listen on {address}: {reason}\n{remedy}\n"


def test_missing_directory(tmp_path: Path) -> None:
    directory = tmp_path / "missing"
    assert nitrohb("-l", f"unix:{directory}/s") == refused(
        f"unix:{directory}/s",
        f"{directory} does not exist (ENOENT)",
        f"Create it first: mkdir -p {directory}",
    )


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert nitrohb("-l", f"unix:{file}/s") == refused(
        f"unix:{file}/s", f"{file} is not a directory (ENOTDIR)", "Choose another path."
    )


def test_unwritable_directory(tmp_path: Path) -> None:
    command: tuple[str, ...] = NITROHB
    if os.geteuid() == 0:  # root may write anywhere, unless it drops that capability
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root needs setpriv (util-linux) to drop a capability")
        command = (setpriv, "--bounding-set=-dac_override", "--inh-caps=-dac_override", *NITROHB)
    directory = tmp_path / "d"
    directory.mkdir(mode=0o500)
    with started("-l", f"unix:{directory}/s", command=command) as script:
        assert script.end() == refused(
            f"unix:{directory}/s",
            "its socket file may not be created or replaced there (EACCES)",
            "Choose a directory in which you may write, or change its owner or mode.",
        )


def test_regular_file_is_left_alone(sock: Path) -> None:
    sock.write_text("precious")
    assert nitrohb("-l", f"unix:{sock}") == refused(
        f"unix:{sock}",
        f"{sock} exists and is not a socket (EEXIST)",
        "Move it away, or choose another path: nitrohb removes nothing but dead sockets.",
    )
    assert sock.read_text() == "precious"


def test_another_nitrohb_there_is_left_undisturbed(sock: Path) -> None:
    with started("-l", f"unix:{sock}", "--format", "json") as first:
        assert first.event()["event"] == "listening"
        assert nitrohb("-l", f"unix:{sock}") == refused(
            f"unix:{sock}",
            "another process listens there (EADDRINUSE)",
            "Stop it, or choose another path. (Its socket file was left alone.)"
            f" Who it is: nitrohb doctor -l unix:{sock}",
        )
        assert beat(sock) == HEARTBEAT
        assert [first.event()["event"] for _ in range(3)] == ["connected", "heartbeat", "done"]
        assert first.end() == (0, "", "")


def test_stale_socket_file_is_replaced(sock: Path) -> None:
    with listening(sock):
        pass
    assert sock.is_socket()
    with started("-l", f"unix:{sock}", "--quiet") as script:
        assert beat(sock) == HEARTBEAT
        assert script.end() == (0, "", "")
    assert not sock.exists()


def test_one_address_that_fails_takes_the_others_back(sock: Path) -> None:
    code, out, err = nitrohb("-l", f"unix:{sock}", "-l", "unix:/nonexistent/s")
    assert (code, out) == (1, "")
    assert err.startswith("nitrohb: cannot listen on unix:/nonexistent/s: ")
    assert not sock.exists()


def test_stderr_that_takes_nothing_keeps_the_exit_code() -> None:
    with started("-l", "unix:/nonexistent/s", command=redirected("2>/dev/full")) as script:
        assert script.end() == (1, "", "")


def test_inherited_socket_is_served_and_its_file_is_not_ours(sock: Path) -> None:
    with listening(sock) as server:
        fd = server.fileno()
        args = ("-l", f"fd:{fd}", "--format", "json")
        with started(*args, pass_fds=(fd,)) as script:
            assert beat(sock) == HEARTBEAT
            assert [script.event()["address"] for _ in range(4)] == [f"unix:{sock}"] * 4
            assert script.end() == (0, "", "")
    assert sock.is_socket()


def test_timeout_on_an_inherited_socket_that_cannot_be_named() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0nitrohb-test-{os.getpid()}")
        server.listen()
        fd = server.fileno()
        with started("-l", f"fd:{fd}", "--timeout", "0.3", "--quiet", pass_fds=(fd,)) as script:
            code, _, err = script.end()
    assert code == 124
    assert err == (
        f"nitrohb: no heartbeat on fd:{fd} within 0.3 s: nobody connected\n"
        "Does the enclave run, and do its connections arrive here?\n"
    )


def test_inherited_unix_socket_has_no_cids_to_allow(sock: Path) -> None:
    with listening(sock) as server:
        fd = server.fileno()
        with started("-l", f"fd:{fd}", "--allow-cid", "4", pass_fds=(fd,)) as script:
            code, out, err = script.end()
    assert (code, out) == (2, "")
    assert re.fullmatch(
        rf"nitrohb: unix:{sock} is a Unix socket, whose peers have no CID: .*\n", err
    )


def test_inherited_socket_that_does_not_listen() -> None:
    with socket.socket(socket.AF_UNIX) as idle:
        fd = idle.fileno()
        with started("-l", f"fd:{fd}", pass_fds=(fd,)) as script:
            assert script.end() == refused(
                f"fd:{fd}",
                "it is a socket that does not listen (EINVAL)",
                "Pass a socket on which listen() has been called.",
            )


def test_inherited_descriptor_that_is_no_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        fd = file.fileno()
        with started("-l", f"fd:{fd}", pass_fds=(fd,)) as script:
            assert script.end() == refused(
                f"fd:{fd}",
                "it is not a socket (ENOTSOCK)",
                "Pass a listening socket in under that number.",
            )


def test_inherited_descriptor_that_is_not_open() -> None:
    assert nitrohb("-l", "fd:987") == refused(
        "fd:987",
        "this process has no open descriptor 987 (EBADF)",
        "Pass a listening socket in under that number; systemd's socket activation begins at fd:3.",
    )
