# SPDX-License-Identifier: Apache-2.0
"""nitrohb on a real AF_VSOCK, over the loopback CID, with a client that does what init does."""

import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest
import trio

from nitrohb import (
    AddressError,
    ConnectError,
    Event,
    Heartbeat,
    ListenError,
    Rejected,
    RejectReason,
    UsageError,
    VsockAddress,
    open_listeners,
    parse_address,
    send_heartbeat,
    serve_heartbeat,
)
from tests.support import B7, child, names, without_capability
from tests.test_seccomp import UNDER_PROFILE, block_af_vsock

pytestmark = pytest.mark.vsock

LOCAL = 1  # VMADDR_CID_LOCAL: the loopback
T = TypeVar("T")

PATIENCE = 60  # seconds: this kernel is slow, and nothing here measures it
NITROHB = [sys.executable, "-m", "nitrohb"]


@pytest.fixture
def enclave() -> Callable[..., int]:
    """The compiled client: CID, port and byte in, its exit status out."""
    program = os.environ["NITROHB_ENCLAVE"]

    def run(port: int = 9000, byte: int = B7[0]) -> int:
        return subprocess.run([program, str(LOCAL), str(port), str(byte)], check=False).returncode

    return run


ECHOED, OTHER_ECHO, NO_ECHO, NO_CONNECTION = range(4)


def converse(talk: Callable[[socket.socket], None], port: int = 9000) -> bytes:
    """Connect, do something, and return everything that comes until the end."""
    got = b""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((LOCAL, port))
        talk(sock)
        while sock.fileno() != -1 and (data := sock.recv(100)):
            got += data
    return got


@asynccontextmanager
async def serving(*listen: str, **options: object) -> AsyncGenerator[list[Event]]:
    """A server that has to end by itself before long, answered or cancelled by the test."""
    events: list[Event] = []
    serve = partial(serve_heartbeat, *listen, on_event=events.append, **options)  # type: ignore[arg-type]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield events
            if options.get("once") is False:
                nursery.cancel_scope.cancel()


async def in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)


async def test_init_is_answered_on_the_default_address(enclave: Callable[..., int]) -> None:
    async with serving() as events:
        assert await in_thread(enclave) == ECHOED
    assert names(events) == ["listening", "connected", "heartbeat", "done"]
    beat = events[2]
    assert isinstance(beat, Heartbeat)
    assert str(beat.address) == "vsock::9000"
    assert beat.cid == LOCAL
    assert beat.peer is not None
    assert beat.peer.port >= 1024
    assert beat.echoed
    assert await in_thread(enclave) == NO_CONNECTION  # one shot


async def test_a_wrong_byte_is_refused_and_the_next_one_answered(
    enclave: Callable[..., int],
) -> None:
    async with serving() as events:
        assert await in_thread(partial(enclave, byte=0)) == NO_ECHO
        assert await in_thread(enclave) == ECHOED
    assert names(events)[1:] == ["connected", "rejected", "connected", "heartbeat", "done"]


async def test_any_byte_is_echoed_when_asked(enclave: Callable[..., int]) -> None:
    async with serving(any_byte=True):
        assert await in_thread(partial(enclave, byte=0)) == ECHOED


async def test_the_allow_list_knows_the_peer(enclave: Callable[..., int]) -> None:
    async with serving(allow_cids={16}, once=False) as events:
        assert await in_thread(enclave) == NO_ECHO
    assert isinstance(events[2], Rejected)
    assert (events[2].cid, events[2].reason) == (LOCAL, RejectReason.CID)
    async with serving(allow_cids={16, LOCAL}):
        assert await in_thread(enclave) == ECHOED


async def test_two_ports_are_reported_in_their_order(enclave: Callable[..., int]) -> None:
    addresses = [f"vsock:{LOCAL}:9001", "vsock::4294967294"]
    async with trio.open_nursery() as nursery:
        beats: list[Heartbeat] = []

        async def serve(task_status: trio.TaskStatus[object]) -> None:
            beats.extend(await serve_heartbeat(*addresses, task_status=task_status))

        await nursery.start(serve)
        for port in (4294967294, 9001):
            assert await in_thread(partial(enclave, port=port)) == ECHOED
    assert [str(beat.address) for beat in beats] == addresses


@pytest.mark.parametrize("second", ["vsock::9000", f"vsock:{LOCAL}:9000"])
@pytest.mark.parametrize("first", ["vsock::9000", f"vsock:{LOCAL}:9000"])
def test_a_port_that_is_taken(first: str, second: str) -> None:
    with open_listeners([first])[0], pytest.raises(ListenError, match="port 9000 is taken") as no:
        open_listeners([second])
    assert (no.value.address, no.value.errno) == (second, errno.EADDRINUSE)
    open_listeners([second])[0].close()  # free again at once


def test_a_cid_of_another_machine() -> None:
    with pytest.raises(ListenError, match="CID 3 is not a CID of this machine") as no:
        open_listeners(["vsock:3:9000"])
    assert no.value.errno == errno.EADDRNOTAVAIL
    assert "vsock::9000" in no.value.remedy


def test_the_range_of_ports() -> None:
    for port in (0, 1023, 4294967294):
        open_listeners([f"vsock::{port}"])[0].close()
    with pytest.raises(UsageError, match="leaves the port to the kernel"):
        open_listeners(["vsock::4294967295"])
    with pytest.raises(AddressError):
        open_listeners(["vsock::4294967296"])


def test_a_low_port_without_privilege() -> None:
    command = [*without_capability("net_bind_service"), *NITROHB, "-l", "vsock::80"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "ports below 1024 need a privilege (EACCES)" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def half_close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [socket.socket.close, half_close])
async def test_a_connection_without_a_byte(
    leave: Callable[[socket.socket], None], enclave: Callable[..., int]
) -> None:
    async with serving() as events:
        assert await in_thread(partial(converse, leave)) == b""
        assert await in_thread(enclave) == ECHOED
    assert sorted(names(events)) == sorted(
        ["listening", "connected", "disconnected", "connected", "heartbeat", "done"]
    )


async def test_a_half_close_after_the_byte() -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(B7)
        half_close(sock)

    async with serving():
        assert await in_thread(partial(converse, talk)) == B7


async def test_a_byte_whose_sender_has_gone_still_counts() -> None:
    def talk(sock: socket.socket) -> None:
        sock.sendall(B7)
        sock.close()

    async with serving() as events:
        assert await in_thread(partial(converse, talk)) == b""
    assert names(events) == ["listening", "connected", "heartbeat", "done"]


async def test_two_hundred_thousand_bytes() -> None:
    async with serving():
        big = partial(converse, lambda sock: sock.sendall(B7 + bytes(199_999)))
        assert await in_thread(big) == B7


async def test_a_silent_client_delays_nobody(enclave: Callable[..., int]) -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as silent:
        async with serving() as events:
            await in_thread(lambda: silent.connect((LOCAL, 9000)))
            assert await in_thread(enclave) == ECHOED
        assert silent.recv(1) == b""
    assert "rejected" in names(events)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_the_enclaves_side(backend: str) -> None:
    address = VsockAddress(LOCAL, 9000)
    command = [*NITROHB, "serve", "--quiet"]

    async def send() -> float:
        with anyio.fail_after(PATIENCE):
            while True:  # nobody listens until the server has started
                with contextlib.suppress(ConnectError):
                    return await send_heartbeat(address, timeout=None)
                await anyio.lowlevel.checkpoint()

    with child(command, stderr=subprocess.PIPE, text=True) as server:
        assert anyio.run(send, backend=backend) > 0
        _, errors = server.communicate(timeout=PATIENCE)
    assert (server.returncode, errors) == (0, "")
    with pytest.raises(ConnectError, match="CID 1 has no listener on port 9000"):
        anyio.run(send_heartbeat, address, backend=backend)


def test_the_client_survives_a_parent_that_has_closed() -> None:
    """From Linux 6.12 on its write then raises SIGPIPE, which must not end it."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listening:
        listening.bind((LOCAL, 9000))
        listening.listen()
        with child([os.environ["NITROHB_ENCLAVE"], str(LOCAL), "9000"]) as client:
            conn, _ = listening.accept()
            assert conn.recv(1) == B7
            status = Path(f"/proc/{client.pid}/status").read_text()
            conn.close()
            assert client.wait(PATIENCE) == NO_ECHO
    (ignored,) = re.findall(r"^SigIgn:\t(.*)", status, re.MULTILINE)
    assert int(ignored, 16) >> (signal.SIGPIPE - 1) & 1


def test_no_such_machine() -> None:
    with pytest.raises(ConnectError, match="CID 77 cannot be reached from here") as no:
        anyio.run(send_heartbeat, "vsock:77:9000", backend="trio")
    assert no.value.errno == errno.ENODEV


@pytest.mark.parametrize("profile", [(), UNDER_PROFILE], ids=["no profile", "seccomp profile"])
def test_the_script_from_listening_to_done(
    enclave: Callable[..., int], profile: tuple[str, ...]
) -> None:
    command = [*profile, *NITROHB, "serve", "--format", "json"]
    with child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert json.loads(server.stdout.readline())["event"] == "listening"
        assert enclave(byte=0) == NO_ECHO
        assert enclave() == ECHOED
        output, errors = server.communicate(timeout=PATIENCE)
    assert (server.returncode, errors) == (0, b"")
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events] == [
        *("connected", "rejected"),
        *("connected", "heartbeat", "done"),
    ]
    assert {event["address"] for event in events} == {"vsock::9000"}
    assert [event["cid"] for event in events] == [LOCAL] * 4 + [None]
    assert isinstance(parse_address(events[3]["peer"]), VsockAddress)


@pytest.mark.parametrize("profile", [None, block_af_vsock])
def test_the_script_on_an_inherited_socket(
    enclave: Callable[..., int], profile: Callable[[], None] | None
) -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.bind((socket.VMADDR_CID_ANY, 9000))
        sock.listen()
        fd = sock.fileno()
        command = [*NITROHB, "-l", f"fd:{fd}", "--allow-cid", str(LOCAL), "--format", "json"]
        inherits = {"pass_fds": [fd], "preexec_fn": profile}
        with child(command, stdout=subprocess.PIPE, **inherits) as server:
            sock.close()
            assert enclave() == ECHOED
            output, _ = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    beat = json.loads(output.splitlines()[2])
    assert (beat["event"], beat["address"], beat["cid"]) == ("heartbeat", "vsock::9000", LOCAL)
    assert enclave() == NO_CONNECTION


def test_the_script_says_that_the_port_is_taken() -> None:
    with open_listeners(["vsock::9000"])[0]:
        done = subprocess.run(NITROHB, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot listen on vsock::9000: port 9000 is taken" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("ends", [0, 7])
def test_run_starts_the_enclave_when_the_port_is_open(ends: int) -> None:
    beats = '"$NITROHB_ENCLAVE" 1 9000 183 && echo "$NITROHB_LISTEN"'
    command = [*NITROHB, "run", "--format", "json", "--", "sh", "-c", f"{beats}; exit {ends}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (ends, "vsock::9000\n")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events] == ["listening", "connected", "heartbeat", "done"]
    assert events[2]["cid"] == LOCAL


def test_each_launcher_waits_for_its_own_enclave(
    enclave: Callable[..., int], tmp_path: Path
) -> None:
    """There is one CID in this kernel, which two ports tell apart."""
    api = f"unix:{tmp_path}/api"
    ports = ("vsock::9000", "vsock::9001")
    options = [*NITROHB, "serve", "--keep", *(f"-l{port}" for port in ports), "--api", api]
    wait = [*NITROHB, "wait", "--api", api, "--format", "json"]
    with contextlib.ExitStack() as processes:
        server = processes.enter_context(child(options, stdout=subprocess.PIPE))
        for _ in ports:
            server.stdout.readline()  # it listens, and its interface does since before that
        launchers = [
            processes.enter_context(child([*wait, "--address", port], stdout=subprocess.PIPE))
            for port in ports
        ]
        for port in (9001, 9000):
            assert enclave(port=port) == ECHOED
        claimed = [json.loads(launcher.communicate(timeout=PATIENCE)[0]) for launcher in launchers]
        assert [(beat["address"], beat["cid"]) for beat in claimed] == [
            (port, LOCAL) for port in ports
        ]
        nothing = subprocess.run([*wait, "--cid", "1", "--timeout", "0.1"], stderr=subprocess.PIPE)
        assert nothing.returncode == 124
        assert enclave() == ECHOED
        by_cid = subprocess.run([*wait, "--cid", "1"], check=True, stdout=subprocess.PIPE)
        assert json.loads(by_cid.stdout)["address"] == "vsock::9000"
        never = subprocess.run([*wait, "--cid", "77", "--timeout", "0.1"], stderr=subprocess.PIPE)
        assert never.returncode == 124
        assert b"every VM that is forwarded over the loopback" in never.stderr
        server.terminate()


@pytest.mark.parametrize("options", [["--quiet"], ["--quiet", "--keep"]])
def test_an_allow_list_is_of_no_use_over_the_loopback(
    enclave: Callable[..., int], options: list[str]
) -> None:
    """Whatever comes that way has CID 1, and that is said once."""
    command = [*NITROHB, "serve", "-l", "vsock::9000", "--allow-cid", "16", *options]
    with child(command, stderr=subprocess.PIPE, text=True) as server:
        while (status := enclave()) == NO_CONNECTION:  # it does not listen yet
            pass
        assert status == NO_ECHO
        assert enclave() == NO_ECHO
        server.terminate()
        _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 143
    why, remedy = err.splitlines()
    assert "a connection from CID 1 on vsock::9000 is refused" in why
    assert "sibling VM" in remedy
