# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve --api`` as a process, and clients of all kinds."""

import errno
import http.client
import os
import signal
import socket
import stat
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from nitrohb import UnixAddress
from nitrohb.cli import settings as module
from nitrohb.cli.parser import parse
from nitrohb.cli.serve_api import open_api
from nitrohb.cli.settings import UnixApiSettings
from tests.api.over_http import OverUnix, ask, port_that_is_free
from tests.cli.process import (
    HEARTBEAT,
    PATIENCE,
    Script,
    beat,
    connected,
    nitrohb_here,
    started,
)

CLAIM = b"POST /claims HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def api(tmp_path: Path) -> Path:
    return tmp_path / "api"


@contextmanager
def serving(sock: Path, api: Path, number: int = signal.SIGTERM) -> Generator[Script]:
    """A server that has answered a heartbeat. A signal ends it; it must not have complained."""
    args = ("--keep", "--quiet", "-l", f"unix:{sock}", "--api", f"unix:{api}")
    with started("serve", *args) as script:
        assert beat(sock) == HEARTBEAT
        yield script
        script.popen.send_signal(number)
        began = time.monotonic()
        assert script.end() == (128 + number, "", "")
        assert time.monotonic() - began < 5
    assert not api.exists()
    assert not sock.exists()


def test_over_a_unix_socket(sock: Path, api: Path) -> None:
    with serving(sock, api), closing(OverUnix(api)) as client:
        assert stat.S_IMODE(api.stat().st_mode) == 0o600
        assert ask(client, "GET", "/healthz") == (200, b"ok")
        assert ask(client, "GET", "/readyz")[0] == 200
        status, claimed = ask(client, "POST", "/claims", {"address": f"unix:{sock}"})
        assert status == 200
        assert ask(client, "GET", "/heartbeats") == (200, [claimed])
        assert ask(client, "POST", "/claims", {"timeout": 0.01})[0] == 504
        assert beat(sock) == HEARTBEAT
        assert ask(client, "POST", "/rearm", {}) == (204, b"")


def test_mode_and_group_of_the_socket(api: Path) -> None:
    other = os.getegid() + (os.geteuid() == 0)
    settings = UnixApiSettings(address=UnixAddress(str(api)), mode=0o660, group=other)
    with ExitStack() as stack:
        open_api(settings, [], stack)
        assert stat.S_IMODE(api.stat().st_mode) == 0o660
        assert api.stat().st_gid == other
    assert not api.exists()


@pytest.mark.parametrize("user", [0, 1000])
def test_serve_and_its_clients_have_one_default(
    user: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(line: str) -> Any:
        return parse(line.split())

    system, own = tmp_path / "run", tmp_path / "own"
    path = (own if user else system) / "nitrohb/api.sock"
    other = system / "nitrohb/api.sock"
    monkeypatch.setattr(module, "_SYSTEM_API", UnixAddress(str(other)))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(own))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    clients = ("wait --cid 1", "listen unix:/x", "unlisten unix:/x")
    settings = parsed("--keep --api").api
    assert settings.address == UnixAddress(str(path))
    assert {parsed(line).api for line in clients} == {settings.address}
    for directory in (system, own):
        directory.mkdir()
    with ExitStack() as stack:
        open_api(settings, [], stack)  # makes the directory
        assert stat.S_IMODE(path.parent.stat().st_mode) & ~0o055 == 0o700
        assert {parsed(line).api for line in clients} == {settings.address}
    if user:  # a server of the system helps all users, if they have none of their own
        other.parent.mkdir()
        other.touch()
        assert {parsed(line).api for line in clients} == {UnixAddress(str(other))}
        assert parsed("--keep --api").api.address == UnixAddress(str(path))
        for none in ("", "relative"):
            monkeypatch.setenv("XDG_RUNTIME_DIR", none)
            assert parsed("--keep --api").api.address == UnixAddress(str(other))


def test_a_default_that_cannot_be_made_is_an_error(
    sock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SYSTEM_API", UnixAddress(f"{tmp_path}/run/nitrohb/api.sock"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    code, out, err = nitrohb_here("--keep", "-l", f"unix:{sock}", "--api")
    assert (code, out) == (1, "")
    assert f"{tmp_path}/run/nitrohb does not exist" in err
    assert "--api unix:PATH" in err
    code, out, err = nitrohb_here("--keep", "-l", f"unix:{sock}", "--api", f"unix:{tmp_path}/no/s")
    assert (code, out) == (1, "")
    assert f"{tmp_path}/no does not exist" in err
    assert "--api unix:PATH" not in err


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_over_tcp(host: str, sock: Path) -> None:
    port = port_that_is_free()
    args = ("--keep", "-l", f"unix:{sock}", "--api", f"{host}:{port}")
    with started(*args, "--api-host", "Parent.example") as script:
        assert "listening" in script.line()
        client = http.client.HTTPConnection(host.strip("[]"), port, timeout=PATIENCE)
        assert ask(client, "GET", "/healthz") == (200, b"ok")
        assert ask(client, "GET", "/healthz", Host="evil.example")[0] == 421
        assert ask(client, "GET", "/healthz", Host=f"parent.example:{port}")[0] == 200
        assert ask(client, "POST", "/rearm", {}, Origin="http://evil.example")[0] == 403
        assert ask(client, "POST", "/rearm", {}, Origin=f"http://{host}:{port}")[0] == 204
        client.close()
        code, _, err = nitrohb_here("--keep", "-l", f"unix:{sock}2", "--api", f"{host}:{port}")
        assert code == 1
        assert errno.errorcode[errno.EADDRINUSE] in err
        script.popen.terminate()
        assert script.end()[0] == 143


def test_wrong_options_are_refused_before_anything_listens(sock: Path) -> None:
    for line, code, fact in (
        # They would have no effect.
        ("127.0.0.1:9180 --api-mode 660", 2, "--api-mode"),
        ("127.0.0.1:9180 --api-group root", 2, "--api-group"),
        ("unix:api --api-host example.com", 2, "--api-host"),
        ("unix:api --api-allow-remote", 2, "--api-allow-remote"),
        # Other machines could connect.
        ("0.0.0.0:9180", 2, "--api-allow-remote"),
        ("[::]:9180", 2, "--api-allow-remote"),
        ("192.0.2.1:9180", 2, "--api-allow-remote"),
        # They can, when asked for: only this machine does not have the address.
        ("192.0.2.1:9180 --api-allow-remote", 1, "192.0.2.1:9180"),
    ):
        args = line.split()
        got, out, err = nitrohb_here("--keep", "-l", f"unix:{sock}", "--api", *args)
        assert (got, out) == (code, ""), (line, err)
        assert args[0] in err, line
        assert fact in err, line
        assert not sock.exists()


HOSTILE = {
    "garbage": bytes(range(256)) * 16,
    "huge headers": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000,
    "slow headers": b"GET / HTTP/1.1\r\nHos",
    "slow body": b"POST /claims HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    "endless body": b"POST /claims HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    + bytes(1_000_000),
    "pipeline": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2000,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000),
    "websocket": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    "claims": CLAIM,
}


@pytest.mark.parametrize("data", [[b""], [*HOSTILE.values()]], ids=["silent", "of each kind"])
def test_hostile_clients_cost_no_heartbeat(data: list[bytes], sock: Path, api: Path) -> None:
    """More of them than may connect. bench/ says how long the heartbeats take."""
    with serving(sock, api), ExitStack() as hostile:
        for number in range(300):
            client = hostile.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with suppress(OSError):
                client.connect(str(api))
                client.send(data[number % len(data)])
        for _ in range(300):
            assert beat(sock) == HEARTBEAT


def test_a_signal_ends_it_although_clients_wait_or_do_not_read(sock: Path, api: Path) -> None:
    with (
        serving(sock, api, signal.SIGINT),
        connected(api) as waits,
        connected(api) as deaf,
    ):
        waits.sendall(CLAIM)
        deaf.settimeout(0.2)
        with pytest.raises(TimeoutError):
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000)
