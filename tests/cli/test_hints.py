# SPDX-License-Identifier: Apache-2.0
"""What nitrohb says on stderr by itself, whole processes of it."""

import select
import shutil
import sys
from pathlib import Path

import pytest

from .process import HEARTBEAT, beat, connected, nitrohb, started, wait_for

FORWARDED = (sys.executable, "-W", "error", str(Path(__file__).with_name("over_loopback.py")))


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_an_allow_list_that_the_loopback_makes_useless(
    options: tuple[str, ...], sock: Path
) -> None:
    command = (*FORWARDED, str(sock))
    with started("serve", "--allow-cid", "16", *options, command=command) as script:
        for _ in range(3):
            with connected(sock) as client:
                assert client.recv(1) == b""
        assert "a connection from CID 1 on vsock:3:9000 is refused" in script.error_line()
        assert "sibling VM" in script.error_line()
        script.popen.terminate()
        code, _, err = script.end()
    assert (code, err) == (143, "")


def test_an_allow_list_that_lets_in_the_loopback_and_so_every_vm(sock: Path) -> None:
    command = (*FORWARDED, str(sock))
    allowed = ("--allow-cid", "1", "--allow-cid", "16")
    with started("serve", "--keep", "--quiet", *allowed, command=command) as script:
        assert beat(sock) == HEARTBEAT
        said = script.error_line()
        assert "a connection from CID 1 on vsock:3:9000 is allowed, whichever VM it is of" in said
        assert "sibling VM" in script.error_line()
        assert beat(sock) == HEARTBEAT
        script.popen.terminate()
        assert script.end() == (143, "", ""), "it is said once"
    with started("serve", "--quiet", "--allow-cid", "1", command=command) as script:
        assert beat(sock) == HEARTBEAT
        assert script.end() == (0, "", ""), "it is what was asked for"


def test_an_enclave_that_is_awaited_by_its_cid_and_comes_over_the_loopback(
    sock: Path, tmp_path: Path
) -> None:
    api = f"unix:{tmp_path}/api"
    command = (*FORWARDED, str(sock))
    with started("serve", "--keep", "--quiet", "--api", api, command=command) as script:
        assert beat(sock) == HEARTBEAT  # nobody asks for a CID yet
        with connected(tmp_path / "api"):
            pass
        options = ("--cid", "16", "--api", api, "--max-age", "0", "--timeout", "3")
        with started("wait", *options) as waiting:
            assert script.popen.stderr is not None
            while not select.select([script.popen.stderr], [], [], 0.01)[0]:
                assert beat(sock) == HEARTBEAT
            assert "has come while another CID is awaited" in script.error_line()
            assert "sibling VM" in script.error_line()
            assert beat(sock) == HEARTBEAT
            code, out, err = waiting.end()
        assert (code, out) == (124, "")
        assert "no heartbeat of CID 16 came within 3 s" in err
        assert "forward-cid=1" in err
        script.popen.terminate()
        assert script.end() == (143, "", ""), "it is said once"


def test_a_lost_socket_file_is_told_and_made_anew(tmp_path: Path) -> None:
    sock = tmp_path / "vm4_9000"
    address = f"hybrid:{tmp_path}/vm4:9000"
    with started("serve", "-l", address, "--format", "json") as script:
        assert script.event()["event"] == "listening"
        sock.unlink()
        lost = script.event()
        assert (lost["event"], lost["replaced"], lost["problem"]) == ("lost", False, None)
        assert script.event()["event"] == "listening"
        assert nitrohb("send", f"unix:{sock}")[0] == 0
        code, _, err = script.end()
    assert (code, err) == (0, "")
    assert not sock.exists()


@pytest.mark.parametrize("options", [("--quiet", "--keep"), ("--quiet",), ()])
def test_what_keeps_it_from_listening_again_is_said_on_stderr(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    sock = tmp_path / "vms" / "hb"
    sock.parent.mkdir()
    with started("serve", "-l", f"unix:{sock}", *options) as script:
        assert beat(sock, b"\x00") == b""
        shutil.rmtree(sock.parent)
        assert f"nitrohb: the socket file of unix:{sock} is gone" in script.error_line()
        assert f"mkdir -p {sock.parent}" in script.error_line()
        assert "tries again" in script.error_line()
        sock.parent.mkdir()
        wait_for(sock.exists)
        script.popen.terminate()
        code, _, err = script.end()
    assert (code, err) == (143, "")
    assert not sock.exists()
