# SPDX-License-Identifier: Apache-2.0
"""``nitrohb wait``, with a real server and with fake ones."""

import json
import os
import re
import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from nitrohb import UsageError
from nitrohb.cli import api_client
from nitrohb.cli.parser import parse

from .peer import answering
from .process import HEARTBEAT, Script, beat, connected, listening, nitrohb_here, started


@pytest.fixture
def api(tmp_path: Path) -> Path:
    return tmp_path / "api"


def test_each_wait_gets_the_heartbeat_of_its_own_enclave(
    tmp_path: Path, api: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (f"unix:{tmp_path}/{name}" for name in "ab")
    options = ("wait", "--api", f"unix:{api}", "--timeout")
    with serving(api, a, b) as server:
        with started(*options, "30", "--format", "json", "--address", a) as for_a:
            assert beat(tmp_path / "b") == HEARTBEAT
            assert_too_old(b, nitrohb_here(*options, "0.1", "--address", b, "--max-age", "0"))
            assert_told(b, nitrohb_here(*options, "5", "--address", b))
            assert for_a.popen.poll() is None
            assert beat(tmp_path / "a") == HEARTBEAT
            assert for_a.event()["address"] == a
            assert for_a.end() == (0, "", "")
        code, out, err = nitrohb_here(*options, "0.1", "--address", a)
        assert (code, out) == (124, "")
        assert f"no heartbeat on {a} came within 0.1 s" in err
        code, out, err = nitrohb_here(*options, "5", "--cid", "16")
        assert (code, out) == (2, "")
        assert f"the peers of {a} have no CID" in err
        when_asked(server.popen.terminate, monkeypatch)
        assert_closed(api, nitrohb_here(*options, "30", "--address", a))
        assert server.end() == (143, "", "")


@contextmanager
def serving(api: Path, *addresses: str) -> Generator[Script]:
    listen = [arg for address in addresses for arg in ("-l", address)]
    args = ("--keep", "--quiet", *listen, "--api", f"unix:{api}")
    with started(*args) as script, connected(api) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"  # Python has loaded, and it is not busy
        yield script


def assert_too_old(address: str, result: tuple[int, str, str]) -> None:
    """Check that the only heartbeat was too old."""
    code, out, err = result
    assert (code, out) == (124, "")
    line, _remedy = err.splitlines()
    assert address in line
    assert "1 sent a heartbeat" in line
    assert "too old" in line


def assert_told(address: str, result: tuple[int, str, str]) -> None:
    """Check that the heartbeat is printed as serve prints it."""
    code, out, err = result
    assert (code, err) == (0, "")
    assert re.fullmatch(
        rf"\S+Z nitro_heartbeat address={re.escape(address)}"
        rf" pid={os.getpid()} uid={os.geteuid()} gid={os.getegid()} byte=0xb7"
        r" listening_seconds=\d+\.\d{6} echo_seconds=\d+\.\d{6} echoed=true level=info\n",
        out,
    )


def when_asked(then: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something when a claim has been sent."""
    original = api_client.receive_all

    def receive(sock: socket.socket, deadline: float) -> bytes:
        then()
        return original(sock, deadline)

    monkeypatch.setattr(api_client, "receive_all", receive)


def assert_closed(api: Path, result: tuple[int, str, str]) -> None:
    code, out, err = result
    assert (code, out) == (1, "")
    message, remedy = err.splitlines()
    assert f"the server at unix:{api} closed the connection" in message
    assert remedy.endswith(f"nitrohb serve --keep --api unix:{api}")


def test_it_waits_until_the_deadline_although_it_looks_for_signals_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api_client, "_SIGNAL_CHECK", 0.01)
    left, right = socket.socketpair()
    with left, right:
        deadline = time.monotonic() + 0.05
        with pytest.raises(TimeoutError):
            api_client.receive_all(left, deadline)
        assert time.monotonic() >= deadline


@pytest.mark.parametrize(
    ("number", "answer"),
    [(signal.SIGINT, b""), (signal.SIGTERM, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")],
    ids=["while it waits", "in the middle of an answer"],
)
def test_a_signal_ends_it_and_it_claims_nothing(
    number: signal.Signals, answer: bytes, api: Path
) -> None:
    args = ("wait", "--address", "unix:x", "--api", f"unix:{api}")
    with listening(api) as server, started(*args) as script:
        connection, _ = server.accept()
        with connection:
            while not connection.recv(4096).endswith(b"}"):
                pass
            connection.sendall(answer)
            script.popen.send_signal(number)
            assert script.end() == (128 + number, "", "")
            assert connection.recv(1) == b""


def test_a_signal_that_interrupts_no_system_call_ends_it(api: Path) -> None:
    """As if it arrived just before recv(2): here another thread gets it."""
    received: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            while not connection.recv(4096).endswith(b"}"):
                pass
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            received.append(connection.recv(1))

    args = ("wait", "--address", "unix:x", "--timeout", "3600", "--api", f"unix:{api}")
    with listening(api) as server:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        thread = threading.Thread(target=serve, args=[server])
        thread.start()
        assert nitrohb_here(*args) == (128 + signal.SIGTERM, "", "")
        thread.join()
    assert received == [b""]


# Nobody answers.


def test_a_wrong_max_age() -> None:
    for age in ("-1", "nan", "inf", "x"):
        with pytest.raises(UsageError, match=f"got {age!r}"):
            parse(["wait", "--cid", "16", "--max-age", age])


def test_a_server_that_does_not_run_and_how_to_start_it(api: Path) -> None:
    def assert_refused(api: str, why: str) -> None:
        code, out, err = nitrohb_here("wait", "--cid", "16", "--api", api)
        assert (code, out) == (1, "")
        message, remedy = err.splitlines()
        assert message.startswith(f"nitrohb: cannot connect to {api}: ")
        assert message.endswith(f"({why})")
        assert remedy.endswith(f": nitrohb serve --keep --api {shlex.quote(api)}")

    assert_refused(f"unix:{api}", "ENOENT")
    with listening(api):
        pass
    assert_refused(f"unix:{api}", "ECONNREFUSED")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as bound:
            bound.bind((host, 0))
            shown = f"[{host}]" if ":" in host else host  # a shell would take this for a pattern
            assert_refused(f"{shown}:{bound.getsockname()[1]}", "ECONNREFUSED")


def test_a_server_that_does_not_answer_is_not_waited_for_any_longer(
    api: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nitrohb.cli.api_client._PATIENCE", 0.1)
    with listening(api):
        args = ("wait", "--address", "unix:x", "--api", f"unix:{api}", "--timeout", "0.1")
        code, out, err = nitrohb_here(*args)
    assert (code, out) == (124, "")
    assert f"unix:{api} does not answer" in err
    assert "Check that it runs" in err


def test_a_server_whose_backlog_is_full_is_asked_again(
    api: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nitrohb.cli.wait._PAUSE", 0.01)
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as clients:
        server.bind(str(api))
        server.listen(0)
        clients.enter_context(connected(api))
        args = ("wait", "--address", "unix:x", "--api", f"unix:{api}", "--timeout", "0.1")
        code, out, err = nitrohb_here(*args)
    assert (code, out) == (124, "")
    assert "is busy" in err


@pytest.mark.parametrize(("name", "why"), [("api", "not a socket"), ("datagrams", "stream")])
def test_a_file_on_which_no_server_can_listen(name: str, why: str, api: Path) -> None:
    """The remedy is not to start a server there."""
    api.touch()
    path = api.parent / name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(str(api.parent / "datagrams"))
        code, _, err = nitrohb_here("wait", "--cid", "1", "--api", f"unix:{path}")
    assert code == 1
    assert why in err
    assert "nitrohb serve" not in err


def test_a_socket_that_cannot_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "AF_UNIX", 45)  # no such family
    code, out, err = nitrohb_here("wait", "--address", "unix:x", "--api", "unix:api.sock")
    assert (code, out) == (1, "")
    assert "nitrohb: cannot connect to unix:api.sock: " in err
    assert "EAFNOSUPPORT" in err


# Another server answers, or a server with a problem.


HEARTBEAT_FIELDS = {
    "address": "unix:x",
    "time": "2026-11-22T21:05:08.205114Z",
    "peer": None,
    "pid": 7,
    "uid": 8,
    "gid": 9,
    "byte": 0xB7,
    "listening_seconds": 1,
    "echo_seconds": 0.001,
    "echoed": True,
}


def http(status: int, answer: object) -> bytes:
    body = json.dumps(answer).encode()
    return b"HTTP/1.1 %d \r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def problem(status: int, detail: str) -> bytes:
    return http(status, {"status": status, "detail": detail})


def wait_for(api: Path, *answers: bytes, line_format: str = "text") -> tuple[int, str, str]:
    args = ("wait", "--address", "vsock::9000", "--api", f"unix:{api}", "--timeout", "5")
    with answering(api, b"}", *answers) as received:
        result = nitrohb_here(*args, "--format", line_format)
    assert all(request.startswith(b"POST /claims HTTP/1.0\r\n") for request in received)
    return result


def test_another_kind_of_server(api: Path) -> None:
    for answer in (
        b"nonsense\r\n",
        b"SSH-2.0 200 OK\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{x",
        http(200, []),
        http(200, {}),
        http(200, {"peer": "unix:x"}),
        http(200, HEARTBEAT_FIELDS | {"time": "\x1b[2J"}),
        http(500, {}),
        http(404, {"detail": "not found"}),
    ):
        code, out, err = wait_for(api, answer)
        assert (code, out) == (1, ""), answer
        assert f"nitrohb: the server at unix:{api} is not nitrohb\n" in err
        assert f"nitrohb serve --keep --api unix:{api}\n" in err


def test_the_remedy_is_that_of_the_server_if_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for detail, remedy in (("why", "try again.\n"), ("why\nDo this.", "Do this.\n")):
        request = Mock(return_value=(504, {"status": 504, "detail": detail}))
        monkeypatch.setattr("nitrohb.cli.wait.request", request)
        args = ("--cid", "1", "--api", "unix:/x", "--timeout", "0.01")
        code, out, err = nitrohb_here("wait", *args)
        assert (code, out, err.count("\n")) == (124, "", 2)
        assert err.endswith(remedy)


def test_the_server_ends_during_the_wait(api: Path) -> None:
    assert_closed(api, wait_for(api, b""))


def test_a_server_cannot_control_the_terminal(api: Path) -> None:
    for detail, shown in (
        ("a bug", "a bug"),
        ("\x1b[2J\x07 two\nlines \u2028", "\\u001b[2J\\u0007 two\nlines \\u2028"),
        ("\ud800 \udc80", "\\ud800 \\udc80"),
    ):
        for status, code in ((404, 1), (500, 1), (400, 2)):
            assert wait_for(api, problem(status, detail)) == (code, "", f"nitrohb: {shown}\n")


def test_a_busy_server_is_asked_again(api: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nitrohb.cli.wait._PAUSE", 0.01)
    answers = (problem(503, "128 others wait already"), http(200, HEARTBEAT_FIELDS))
    code, out, err = wait_for(api, *answers, line_format="json")
    assert (code, err) == (0, "")
    as_serve_prints_it = {"event": "heartbeat", "cid": None, "level": "info"}
    assert json.loads(out) == HEARTBEAT_FIELDS | as_serve_prints_it
