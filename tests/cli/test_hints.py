# SPDX-License-Identifier: Apache-2.0
"""What nitrohb says on stderr by itself."""

import select
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nitrohb import CID_ANY, Connected, Event, Lost, Rejected, RejectReason, VsockAddress
from nitrohb.cli.hints import Hints

from .process import HEARTBEAT, beat, connected, nitrohb_here, started, wait_for

ANY = VsockAddress(CID_ANY, 9000)
TIME = datetime(2025, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)


def connection(cid: int) -> Event:
    return Connected(address=ANY, time=TIME, peer=VsockAddress(cid, 1024))


def refused(cid: int, reason: RejectReason = RejectReason.CID) -> Event:
    return Rejected(address=ANY, time=TIME, peer=VsockAddress(cid, 1024), reason=reason)


@pytest.mark.parametrize(
    ("allow_cids", "is_awaited", "event", "what"),
    [
        ({16}, False, refused(1), "is refused"),
        ({1, 16}, False, connection(1), "is allowed, whichever VM it is of"),
        (None, True, connection(1), "has come while another CID is awaited"),
    ],
)
def test_a_cid_that_all_vms_have_is_told_of_once(
    allow_cids: set[int] | None, is_awaited: bool, event: Event, what: str
) -> None:
    said: list[str] = []
    hints = Hints(said.append, allow_cids)
    hints.awaits_cid = lambda: is_awaited
    for other in (connection(16), refused(16), refused(1, RejectReason.TIMEOUT)):
        hints(other)
    assert not said
    for _ in range(3):
        hints(event)
    (hint,) = said
    first, second = hint.splitlines()
    assert first.startswith(f"nitrohb: a connection from CID 1 on vsock::9000 {what}: ")
    assert "forward-cid=1" in first + second
    assert "sibling VM" in second


def test_whoever_needs_no_cid_is_not_told_about_cids() -> None:
    said: list[str] = []
    for allow_cids in (None, [1], [16]):
        Hints(said.append, allow_cids)(connection(1))
    assert not said


def test_a_loss_is_said_when_there_is_something_to_be_done() -> None:
    said: list[str] = []
    hints = Hints(said.append, None)
    hints(Lost(address=ANY, time=TIME, replaced=False))
    assert not said
    lost = Lost(address=ANY, time=TIME, replaced=False, problem="why\nwhat to do")
    hints(lost)
    assert said == [f"nitrohb: {lost.explanation}"]


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

        with started("wait", "--cid", "16", "--api", api, "--max-age", "0"):
            wait_for(has_come_and_been_told_of)
            assert "has come while another CID is awaited" in script.error_line()
            assert "sibling VM" in script.error_line()
            assert beat(sock) == HEARTBEAT
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
