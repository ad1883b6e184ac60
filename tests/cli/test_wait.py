# SPDX-License-Identifier: Apache-2.0
"""``nitrohb wait``: real servers, and what only looks like one."""

import json
import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nitrohb.cli import main

from .process import HEARTBEAT, PATIENCE, Script, beat, connected, listening, nitrohb, started


@pytest.fixture
def api(tmp_path: Path) -> Path:
    return tmp_path / "api"


@contextmanager
def serving(api: Path, *socks: Path) -> Generator[Script]:
    listen = [arg for sock in socks for arg in ("-l", f"unix:{sock}")]
    args = ("--keep", "--quiet", *listen, "--api", f"unix:{api}")
    with started(*args) as script, connected(api) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"  # Python has loaded, and it is not busy
        yield script


def test_two_waits_for_two_enclaves_get_each_its_own(tmp_path: Path, api: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    options = ("--api", f"unix:{api}", "--format", "json", "--timeout", "30")
    with (
        serving(api, a, b),
        started("wait", "--address", f"unix:{a}", *options) as for_a,
        started("wait", "--address", f"unix:{b}", *options) as for_b,
    ):
        assert beat(b) == HEARTBEAT
        assert for_b.event()["address"] == f"unix:{b}"
        assert for_b.end() == (0, "", "")
        assert for_a.popen.poll() is None
        assert beat(a) == HEARTBEAT
        assert for_a.event()["address"] == f"unix:{a}"
        assert for_a.end() == (0, "", "")


def test_text_is_as_serve_prints_it(sock: Path, api: Path) -> None:
    with serving(api, sock):
        assert beat(sock) == HEARTBEAT
        code, out, err = nitrohb("wait", "--address", f"unix:{sock}", "--api", f"unix:{api}")
    assert (code, err) == (0, "")
    seconds = r"\d+\.\d{6}"
    assert re.fullmatch(
        rf"\S+Z nitro_heartbeat address=unix:{re.escape(str(sock))} byte=0xb7"
        rf" listening_seconds={seconds} echo_seconds={seconds} echoed=true level=info\n",
        out,
    )


def test_the_time_is_up(sock: Path, api: Path) -> None:
    args = ("wait", "--address", f"unix:{sock}", "--api", f"unix:{api}", "--timeout", "0.2")
    with serving(api, sock):
        message = (
            f"nitrohb: no heartbeat on unix:{sock} came within 0.2 s\n"
            f"What came instead, the server at unix:{api} tells on its stdout.\n"
        )
        assert nitrohb(*args) == (124, "", message)


def test_what_the_server_refuses(sock: Path, api: Path) -> None:
    with serving(api, sock):
        code, out, err = nitrohb("wait", "--cid", "16", "--api", f"unix:{api}")
    assert (code, out) == (2, "")
    assert err == f"nitrohb: the peers of unix:{sock} have no CID: ask by address instead\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_it_claims_nothing(
    number: int, status: int, sock: Path, api: Path
) -> None:
    args = ("wait", "--address", f"unix:{sock}", "--api", f"unix:{api}")
    with listening(api) as server, started(*args) as script:
        connection, _ = server.accept()
        with connection:
            assert connection.recv(5) == b"POST "
            script.popen.send_signal(number)
            assert script.end() == (status, "", "")
            while connection.recv(4096):
                pass


def test_a_signal_ends_it_in_the_middle_of_an_answer(sock: Path, api: Path) -> None:
    args = ("wait", "--address", f"unix:{sock}", "--api", f"unix:{api}")
    with listening(api) as server, started(*args) as script:
        connection, _ = server.accept()
        with connection:
            while not connection.recv(4096).endswith(b"}"):
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
            script.popen.send_signal(signal.SIGTERM)
            assert script.end() == (143, "", "")


@pytest.mark.parametrize("age", ["-1", "nan", "inf", "x"])
def test_an_age_that_is_none(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["wait", "--cid", "16", "--max-age", age])
    assert f"expected seconds, at least 0, got {age!r}" in capsys.readouterr().err


def test_no_such_socket(api: Path) -> None:
    assert nitrohb("wait", "--cid", "16", "--api", f"unix:{api}") == (
        1,
        "",
        f"nitrohb: cannot connect to unix:{api}: there is no such socket (ENOENT)\n"
        f"Start the server with it first: nitrohb serve --keep --api unix:{api}\n",
    )


def test_nobody_listens(api: Path) -> None:
    with listening(api):
        pass
    code, out, err = nitrohb("wait", "--cid", "16", "--api", f"unix:{api}")
    assert (code, out) == (1, "")
    assert f"cannot connect to unix:{api}: no server runs there (ECONNREFUSED)\n" in err


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_nobody_listens_on_tcp(host: str) -> None:
    family = socket.AF_INET6 if "::" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.bind((host.strip("[]"), 0))
        address = f"{host}:{bound.getsockname()[1]}"
        code, out, err = nitrohb("wait", "--cid", "16", "--api", address)
    assert (code, out) == (1, "")
    quoted = shlex.quote(address)  # a shell would take brackets for a pattern
    assert f"Start it first: nitrohb serve --keep --api {quoted}\n" in err


def respond(api: Path, answer: bytes) -> tuple[int, str, str]:
    with listening(api) as server:
        options = ("--address", "vsock::9000", "--api", f"unix:{api}", "--timeout", "5")
        with started("wait", *options) as script:
            connection, _ = server.accept()
            with connection:
                while not connection.recv(4096).endswith(b"}"):
                    pass
                connection.sendall(answer)
            return script.end()


def ok(answer: object) -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def problem(status: int, detail: str) -> bytes:
    body = json.dumps({"status": status, "detail": detail}).encode()
    return b"HTTP/1.1 %d \r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


STRANGER = "is no nitrohb\nIts server is started by: nitrohb serve --keep --api unix:"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "has closed the connection: it has ended"),
        (b"nonsense\r\n", STRANGER),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{x", STRANGER),
        (ok([]), STRANGER),
        (ok({}), STRANGER),
        (ok({"peer": "unix:x"}), STRANGER),
        (problem(500, "a bug"), "nitrohb: a bug\n"),
        (b"HTTP/1.1 500 \r\nContent-Length: 2\r\n\r\n{}", STRANGER),
        (b'HTTP/1.1 404 \r\nContent-Length: 23\r\n\r\n{"detail": "not found"} ', STRANGER),
    ],
)
def test_what_is_no_server(answer: bytes, message: str, api: Path) -> None:
    code, out, err = respond(api, answer)
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_meanwhile(number: int, sock: Path, api: Path) -> None:
    args = ("--keep", "--quiet", "-l", f"unix:{sock}", "--api", f"unix:{api}")
    wait = ("wait", "--address", f"unix:{sock}", "--api", f"unix:{api}")
    with started(*args) as server, connected(api) as probe:
        probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert probe.recv(4096)
        before = sockets_of(server)
        with started(*wait) as script:
            until = time.monotonic() + PATIENCE
            while sockets_of(server) <= before:
                assert time.monotonic() < until
                time.sleep(0.001)
            server.popen.send_signal(number)
            code, out, err = script.end()
    assert (code, out) == (1, "")
    assert err == (
        f"nitrohb: the server at unix:{api} has closed the connection: it has ended, or that is not"
        " its interface\n"
        "Start it again, or name what stands behind its --api:"
        f" nitrohb serve --keep --api unix:{api}\n"
    )


def sockets_of(script: Script) -> int:
    """How many sockets a process has open."""
    count = 0
    for fd in Path(f"/proc/{script.popen.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            count += os.readlink(fd).startswith("socket:")
    return count


def test_a_server_that_does_not_answer_is_not_waited_for_any_longer(api: Path) -> None:
    with listening(api):
        args = ("--address", "unix:x", "--api", f"unix:{api}", "--timeout", "0.1")
        code, out, err = nitrohb("wait", *args)
    assert (code, out) == (124, "")
    assert err == f"nitrohb: the server at unix:{api} does not answer: it is busy, or stopped\n"


def test_a_server_without_a_place_is_asked_again(sock: Path, api: Path) -> None:
    heartbeat = {
        "address": f"unix:{sock}",
        "time": "2026-11-22T21:05:08.205114Z",
        "peer": None,
        "byte": 0xB7,
        "listening_seconds": 1,
        "echo_seconds": 0.001,
        "echoed": True,
    }
    with listening(api) as server:
        args = ("wait", "--address", f"unix:{sock}", "--api", f"unix:{api}", "--format", "json")
        with started(*args) as script:
            for answer in (problem(503, "128 others wait already"), ok(heartbeat)):
                connection, _ = server.accept()
                with connection:
                    while not connection.recv(4096).endswith(b"}"):
                        pass
                    connection.sendall(answer)
            code, out, err = script.end()
    assert (code, err) == (0, "")
    as_serve_prints_it = {"event": "heartbeat", "cid": None, "level": "info"}
    assert json.loads(out) == heartbeat | as_serve_prints_it


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ("\x1b[2J\x07 two\nlines \u2028", "\\u001b[2J\\u0007 two\nlines \\u2028"),
        ("\ud800 \udc80", "\\ud800 \\udc80"),
    ],
)
def test_what_a_server_says_cannot_play_with_the_terminal(
    detail: str, shown: str, api: Path
) -> None:
    with listening(api) as server, started("wait", "--cid", "1", "--api", f"unix:{api}") as script:
        connection, _ = server.accept()
        with connection:
            while not connection.recv(4096).endswith(b"}"):
                pass
            connection.sendall(problem(404, detail))
        assert script.end() == (1, "", f"nitrohb: {shown}\n")


def test_only_what_comes_from_now_on(sock: Path, api: Path) -> None:
    with serving(api, sock):
        assert beat(sock) == HEARTBEAT
        options = ("--address", f"unix:{sock}", "--api", f"unix:{api}", "--timeout", "0.1")
        code, out, err = nitrohb("wait", *options, "--max-age", "0")
        assert (code, out) == (124, "")
        assert "is claimed already or more than 0 s old" in err
        assert nitrohb("wait", *options)[0] == 0
