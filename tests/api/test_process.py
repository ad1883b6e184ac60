# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve --api`` as a process, and clients of all kinds."""

import http.client
import os
import signal
import socket
import stat
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.api.over_http import OverUnix, ask, port_that_is_free
from tests.cli.process import (
    HEARTBEAT,
    PATIENCE,
    Script,
    beat,
    connected,
    nitrohb,
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
def serving(sock: Path, api: Path, *options: str) -> Generator[Script]:
    """A server with an interface, which is ended by SIGTERM, and must not have complained."""
    args = ("--keep", "--quiet", "-l", f"unix:{sock}", "--api", f"unix:{api}")
    with started("serve", *args, *options) as script:
        with connected(api):
            yield script
        script.popen.terminate()
        assert script.end() == (143, "", "")
    assert not api.exists()
    assert not sock.exists()


def test_over_a_unix_socket(sock: Path, api: Path) -> None:
    with serving(sock, api):
        client = OverUnix(api)
        assert stat.S_IMODE(api.stat().st_mode) == 0o600
        assert ask(client, "GET", "/healthz") == (200, b"ok")
        assert ask(client, "GET", "/readyz")[0] == 200
        assert beat(sock) == HEARTBEAT
        status, claimed = ask(client, "POST", "/claims", {"address": f"unix:{sock}"})
        assert status == 200
        assert ask(client, "GET", "/heartbeats") == (200, [claimed])
        assert ask(client, "POST", "/claims", {"timeout": 0.01})[0] == 504
        assert ask(client, "POST", "/rearm", {}) == (204, b"")
        client.close()


def test_mode_and_group_of_the_socket(sock: Path, api: Path) -> None:
    group = str(os.getegid())
    with serving(sock, api, "--api-mode", "660", "--api-group", group):
        assert stat.S_IMODE(api.stat().st_mode) == 0o660
        assert stat.S_IMODE(sock.stat().st_mode) == 0o600


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
        taken = nitrohb("--keep", "-l", f"unix:{sock}2", "--api", f"{host}:{port}")
        assert taken[0] == 1
        assert "another process listens on that port (EADDRINUSE)" in taken[2]
        script.popen.terminate()
        assert script.end()[0] == 143


@pytest.mark.parametrize(
    ("address", "option"),
    [
        ("127.0.0.1:9180", ("--api-mode", "660")),
        ("127.0.0.1:9180", ("--api-group", "root")),
        ("unix:api", ("--api-host", "example.com")),
        ("unix:api", ("--api-allow-remote",)),
    ],
)
def test_options_that_would_have_no_effect(
    address: str, option: tuple[str, ...], sock: Path
) -> None:
    code, out, err = nitrohb("-l", f"unix:{sock}", "--keep", "--api", address, *option)
    assert (code, out) == (2, "")
    assert f", not for {address}\n" in err
    assert not sock.exists()


@pytest.mark.parametrize("address", ["0.0.0.0:9180", "[::]:9180", "192.0.2.1:9180"])
def test_other_machines_are_not_let_in_by_mistake(address: str, sock: Path) -> None:
    code, out, err = nitrohb("--keep", "-l", f"unix:{sock}", "--api", address)
    assert (code, out) == (2, "")
    assert f"--api {address}: other machines reach this address" in err
    assert not sock.exists()


def test_other_machines_are_let_in_on_demand(sock: Path) -> None:
    args = ("--keep", "-l", f"unix:{sock}", "--api", "192.0.2.1:9180", "--api-allow-remote")
    code, _, err = nitrohb(*args)
    assert code == 1
    assert "cannot listen on 192.0.2.1:9180: that is no address of this machine" in err


def test_who_goes_away_claims_nothing(sock: Path, api: Path) -> None:
    with serving(sock, api):
        for _ in range(20):
            with connected(api) as gone:
                gone.sendall(CLAIM)
        client = OverUnix(api)
        for _ in range(3):  # by then it knows that they are gone
            assert ask(client, "GET", "/healthz") == (200, b"ok")
        assert beat(sock) == HEARTBEAT
        assert ask(client, "POST", "/claims", {"timeout": 5})[0] == 200
        client.close()


HOSTILE = {
    "silent": b"",
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


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_clients_cost_no_heartbeat(data: bytes, sock: Path, api: Path) -> None:
    with serving(sock, api), ExitStack() as hostile:
        assert beat(sock) == HEARTBEAT  # which the first has to wait for, while Python loads
        for _ in range(300):
            client = hostile.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(api)) == 0 and data:
                try:
                    client.send(data)
                except OSError:
                    continue
        longest = 0.0
        for _ in range(50):
            began = time.monotonic()
            assert beat(sock) == HEARTBEAT
            longest = max(longest, time.monotonic() - began)
        assert longest < 1


def test_a_signal_ends_it_whoever_waits_or_does_not_read(sock: Path, api: Path) -> None:
    args = ("--keep", "--quiet", "-l", f"unix:{sock}", "--api", f"unix:{api}")
    with started(*args) as script, connected(api) as waits, connected(api) as deaf:
        waits.sendall(CLAIM)
        deaf.settimeout(0.5)
        with pytest.raises(TimeoutError):
            deaf.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000)
        script.popen.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert script.end() == (130, "", "")
        assert time.monotonic() - began < 5
