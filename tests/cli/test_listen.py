# SPDX-License-Identifier: Apache-2.0
"""``nitrohb listen`` and ``unlisten``: a real server, whose addresses they change."""

import json
import signal
import socket
import stat
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.api.over_http import port_that_is_free

from .peer import answering
from .process import HEARTBEAT, PATIENCE, beat, listening, nitrohb_here, started
from .test_wait import http, problem


@pytest.fixture
def api(tmp_path: Path) -> Path:
    return tmp_path / "api"


@contextmanager
def service_manager(path: Path) -> Generator[socket.socket]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        yield manager


def test_a_server_begins_without_an_address_and_vms_come_and_go(tmp_path: Path, api: Path) -> None:
    at = ("--api", f"unix:{api}")
    vm = f"hybrid:{tmp_path}/vm4/v.sock:9000"
    path = tmp_path / "vm4" / "v.sock_9000"
    args = ("serve", "--keep", "--format=json", "--socket-mode=620", "-l", "none", *at)
    env = {"NOTIFY_SOCKET": f"{tmp_path}/notify"}
    with service_manager(tmp_path / "notify") as manager, started(*args, env=env) as server:
        assert manager.recv(4096) == b"READY=1\nSTATUS=waiting for an address"
        assert f"nitrohb listen ADDR --api unix:{api}" in server.error_line()
        code, out, err = nitrohb_here("listen", vm, *at)
        assert (code, out) == (1, "")
        assert f"cannot listen on {vm}" in err
        path.parent.mkdir()
        assert nitrohb_here("listen", vm, *at) == (0, "", "")
        assert stat.S_IMODE(path.stat().st_mode) == 0o620
        code, _, err = nitrohb_here("listen", vm, *at)
        assert (code, "already" in err) == (1, True)
        assert beat(path) == HEARTBEAT
        assert nitrohb_here("wait", "--address", vm, *at)[0] == 0
        assert nitrohb_here("unlisten", vm, *at) == (0, "", "")
        assert not path.exists()
        code, _, err = nitrohb_here("unlisten", vm, *at)
        assert (code, "does not listen" in err) == (1, True)
        server.popen.terminate()
        code, out, err = server.end()
        assert (code, err) == (143, "")
        names = [json.loads(line)["event"] for line in out.splitlines()]
        assert names == ["listening", "connected", "heartbeat", "unlistened"]


def test_over_tcp_it_is_refused(tmp_path: Path) -> None:
    at = f"127.0.0.1:{port_that_is_free()}"
    sock = tmp_path / "hb"
    with started("--keep", "-l", f"unix:{sock}", "--api", at):
        assert beat(sock) == HEARTBEAT
        for command in ("listen", "unlisten"):
            code, _, err = nitrohb_here(command, f"unix:{sock}", "--api", at)
            assert (code, "over TCP" in err) == (1, True)
    assert sock.exists()


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (http(201, {"address": "unix:/x", "listening": True}), 0, ""),
        (problem(400, "unix:x is relative"), 2, "relative"),
        (problem(409, "the server listens there\nStop it"), 1, "listens there\nStop it"),
        (problem(503, "not started yet"), 1, "not started yet"),
        (http(409, {}), 1, "is not nitrohb"),
        (http(200, {"status": 200}), 1, "status 200"),
        (b"", 1, "closed the connection"),
        (b"nonsense", 1, "is not nitrohb"),
    ],
)
def test_what_a_server_answers(answer: bytes, code: int, message: str, api: Path) -> None:
    with answering(api, b"}", answer) as received:
        result, out, err = nitrohb_here("listen", "unix:/x", "--api", f"unix:{api}")
    assert (result, out, message in err) == (code, "", True)
    assert received[0].startswith(b"POST /listeners HTTP/1.0\r\n")
    assert received[0].endswith(b'{"address": "unix:/x"}')


def test_an_address_is_one_segment_of_the_path(api: Path) -> None:
    with answering(api, b"\r\n\r\n", b"HTTP/1.1 204 \r\n\r\n") as received:
        args = ("unlisten", "unix:/a/\udc80é", "--api", f"unix:{api}")
        assert nitrohb_here(*args) == (0, "", "")
    assert received[0].startswith(b"DELETE /listeners/unix%3A%2Fa%2F%80%C3%A9 HTTP/1.0\r\n")


def test_a_server_that_does_not_answer(api: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nitrohb.cli.api_client._CHANGE", 0.1)
    monkeypatch.setattr("nitrohb.cli.api_client._PATIENCE", 0.1)
    with listening(api):
        code, _, err = nitrohb_here("unlisten", "unix:/x", "--api", f"unix:{api}")
        assert (code, "busy or stopped" in err) == (1, True)
    api.unlink()
    code, _, err = nitrohb_here("unlisten", "unix:/x", "--api", f"unix:{api}")
    assert (code, f"nitrohb serve --keep --api unix:{api}" in err) == (1, True)


def test_a_signal_ends_it(api: Path) -> None:
    with listening(api) as server, started("unlisten", "unix:/x", "--api", f"unix:{api}") as script:
        connection, _ = server.accept()
        with connection:
            assert connection.recv(4096)
            script.popen.send_signal(signal.SIGINT)
            assert script.end() == (130, "", "")


@pytest.mark.parametrize(
    "args",
    [
        ("serve", "--keep", "-l", "none"),
        ("serve", "--keep", "-l", "none", "--api", "127.0.0.1:9180"),
        ("serve", "--keep", "-l", "none", "-l", "unix:x", "--api", "unix:y"),
        ("doctor", "-l", "none"),
        ("run", "-l", "none", "--", "true"),
    ],
)
def test_no_address_is_refused_without_a_way_to_add_one(args: tuple[str, ...]) -> None:
    code, _, err = nitrohb_here(*args)
    assert (code, "-l none" in err) == (2, True)
