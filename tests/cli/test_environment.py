# SPDX-License-Identifier: Apache-2.0
"""What the script says when the machine does not let it listen, and that it breaks nothing then."""

import os
import socket
from pathlib import Path

from tests.support import without_capability

from .process import HEARTBEAT, NITROHB, beat, listening, nitrohb_here, redirected, started

BOUND = ("--timeout", "9")  # for what listens although it should not


def assert_refused(result: tuple[int, str, str], address: str, *facts: str) -> None:
    """It failed, and the message names the address, the errno or reason, and the remedy."""
    code, out, err = result
    assert (code, out) == (1, "")
    message, _remedy = err.splitlines()
    assert message.startswith(f"nitrohb: cannot listen on {address}: ")
    assert not [fact for fact in facts if fact not in err], err


def test_paths_where_no_socket_file_can_be(tmp_path: Path) -> None:
    file, missing = tmp_path / "file", tmp_path / "missing"
    file.write_text("precious")
    for path, facts in {
        missing / "s": ("(ENOENT)", f"mkdir -p {missing}"),
        file / "s": ("(ENOTDIR)", f"{file} is not a directory", "another path"),
        file: ("(EEXIST)", f"{file} exists and is not a socket", "another path"),
    }.items():
        # The other address, which could be listened on, is taken back.
        result = nitrohb_here(*BOUND, "-l", f"unix:{tmp_path}/other", "-l", f"unix:{path}")
        assert_refused(result, f"unix:{path}", *facts)
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_text() == "precious"


def test_unwritable_directory(tmp_path: Path) -> None:
    command = (*without_capability("dac_override"), *NITROHB)  # root may write anywhere
    directory = tmp_path / "d"
    directory.mkdir(mode=0o500)
    address = f"unix:{directory}/s"
    with started("-l", address, command=command) as script:
        assert_refused(script.end(), address, "(EACCES)", "directory in which you may write")


def test_another_nitrohb_there_is_left_undisturbed(sock: Path) -> None:
    address = f"unix:{sock}"
    with started("-l", address, "--format", "json") as first:
        assert first.event()["event"] == "listening"
        result = nitrohb_here(*BOUND, "-l", address)
        assert_refused(result, address, "(EADDRINUSE)", f"nitrohb doctor -l {address}")
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


def test_stderr_that_takes_nothing_keeps_the_exit_code() -> None:
    with started("-l", "unix:/nonexistent/s", command=redirected("2>/dev/full")) as script:
        assert script.end() == (1, "", "")


def test_descriptors_that_cannot_be_listened_on(tmp_path: Path) -> None:
    """What is not as it was promised is left open, as it was."""
    with socket.socket(socket.AF_UNIX) as idle, (tmp_path / "file").open("wb") as file:
        for fd, facts in {
            idle.fileno(): ("(EINVAL)", "listen()"),
            file.fileno(): ("(ENOTSOCK)", "listening socket"),
            987: ("(EBADF)", "987", "fd:3"),
        }.items():
            assert_refused(nitrohb_here(*BOUND, "-l", f"fd:{fd}"), f"fd:{fd}", *facts)


def test_name_that_no_inherited_socket_has() -> None:
    code, out, err = nitrohb_here("-l", "fd:heartbeat")
    assert (code, out) == (1, "")
    assert "fd:heartbeat" in err
    assert "none at all" in err
    assert "LISTEN_FDNAMES" in err


def test_inherited_socket_that_cannot_be_named_is_told_by_its_descriptor() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0nitrohb-test-{os.getpid()}")
        server.listen()
        fd = server.detach()  # nitrohb's from now on
        code, _, err = nitrohb_here("-l", f"fd:{fd}", "--timeout", "0.01", "--quiet")
    assert code == 124
    assert f"no heartbeat on fd:{fd} within 0.01 s: nobody connected\n" in err
    assert "nitrohb send" not in err, "it is not known where"


def test_inherited_unix_socket_has_no_cids_to_allow(sock: Path) -> None:
    with listening(sock) as server:
        code, out, err = nitrohb_here("-l", f"fd:{server.detach()}", "--allow-cid", "4")
    assert (code, out) == (2, "")
    assert f"unix:{sock} is a Unix socket, whose peers have no CID" in err
