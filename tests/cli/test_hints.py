# SPDX-License-Identifier: Apache-2.0
"""What nitrohb says on stderr by itself, whole processes of it."""

import select
import sys
from pathlib import Path

import pytest

from .process import HEARTBEAT, beat, connected, nitrohb_here, started, wait_for

FORWARDED = (sys.executable, "-W", "error", str(Path(__file__).with_name("over_loopback.py")))


@pytest.mark.parametrize("options", [(), ("--quiet",)])
def test_an_allow_list_that_lets_in_the_loopback_and_so_every_vm(
    options: tuple[str, ...], sock: Path
) -> None:
    args = ("serve", "--keep", "--allow-cid", "1", "--allow-cid", "16", *options)
    with started(*args, command=(*FORWARDED, str(sock))) as script:
        for _ in range(2):
            assert beat(sock) == HEARTBEAT
        assert "CID 1 on vsock:3:9000 is allowed" in script.error_line()
        assert "sibling VM" in script.error_line()
        script.popen.terminate()
        code, _, err = script.end()
    assert (code, err) == (143, ""), "it is said once"


def test_an_enclave_that_is_awaited_by_its_cid_and_comes_over_the_loopback(
    sock: Path, tmp_path: Path
) -> None:
    api = f"unix:{tmp_path}/api"
    args = ("serve", "--keep", "--quiet", "--api", api)
    with started(*args, command=(*FORWARDED, str(sock))) as script:
        assert beat(sock) == HEARTBEAT  # nobody asks for a CID yet
        with connected(tmp_path / "api"):
            pass
        stderr = script.popen.stderr
        assert stderr is not None

        def has_come_and_been_told_of() -> bool:
            assert beat(sock) == HEARTBEAT
            return bool(select.select([stderr], [], [], 0)[0])

        with started("wait", "--cid", "16", "--api", api, "--max-age", "0") as waiting:
            wait_for(has_come_and_been_told_of)
            assert "has come while another CID is awaited" in script.error_line()
            assert "sibling VM" in script.error_line()
            assert beat(sock) == HEARTBEAT
            waiting.popen.terminate()
            assert waiting.end() == (143, "", "")
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
        assert nitrohb_here("send", f"unix:{sock}")[0] == 0
        code, _, err = script.end()
    assert (code, err) == (0, "")
    assert not sock.exists()


@pytest.mark.parametrize("options", [("--quiet",), ()])
def test_what_keeps_it_from_listening_again_is_said_on_stderr(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    sock = tmp_path / "vms" / "hb"
    sock.parent.mkdir()
    with started("serve", "-l", f"unix:{sock}", *options) as script:
        assert beat(sock, b"\x00") == b""
        sock.parent.rename(tmp_path / "gone")  # in one step: between two, it would listen again
        assert f"nitrohb: the socket file of unix:{sock} is gone" in script.error_line()
        assert f"mkdir -p {sock.parent}" in script.error_line()
        assert "tries again" in script.error_line()
        sock.parent.mkdir()
        wait_for(sock.exists)
        script.popen.terminate()
        code, _, err = script.end()
    assert (code, err) == (143, "")
    assert not sock.exists()
