# SPDX-License-Identifier: Apache-2.0
"""nitrohb on a real AF_VSOCK, over the loopback, with a client that does what init does."""

import errno
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
import trio

from nitrohb import (
    AddressError,
    ConnectError,
    Event,
    Heartbeat,
    ListenError,
    ListenTarget,
    Rejected,
    RejectReason,
    UsageError,
    VsockAddress,
    open_listeners,
    parse_address,
    send_heartbeat,
    serve_heartbeat,
)
from tests.cli.process import NITROHB, Script, nitrohb_here, started
from tests.support import B7, child, names, without_capability
from tests.test_seccomp import UNDER_PROFILE, block_af_vsock

pytestmark = pytest.mark.vsock

LOCAL = 1  # VMADDR_CID_LOCAL: the loopback
PATIENCE = 60  # seconds: this kernel is slow, and nothing here measures it
ECHOED, OTHER_ECHO, NO_ECHO, NO_CONNECTION = range(4)

T = TypeVar("T")


def enclave(port: int = 9000, byte: int = B7[0]) -> int:
    """Run the compiled client, and return its exit status."""
    command = [os.environ["NITROHB_ENCLAVE"], str(LOCAL), str(port), str(byte)]
    return subprocess.run(command, timeout=PATIENCE).returncode


def converse(talk: Callable[[socket.socket], None]) -> bytes:
    """Connect, do something, and return all bytes until the end."""
    got = b""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect((LOCAL, 9000))
        talk(sock)
        while data := sock.recv(100):
            got += data
    return got


@asynccontextmanager
async def serving(*listen: ListenTarget, **options: object) -> AsyncGenerator[list[Event]]:
    """Run a server that ends after its heartbeat, or when the test cancels it."""
    events: list[Event] = []
    serve = partial(serve_heartbeat, *listen, on_event=events.append, **options)  # type: ignore[arg-type]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield events
            if options.get("keep"):
                nursery.cancel_scope.cancel()


async def in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)


async def test_init_is_answered_on_the_default_address() -> None:
    async with serving() as events:
        assert await in_thread(enclave) == ECHOED
    assert names(events) == ["listening", "connected", "heartbeat", "done"]
    beat = events[2]
    assert isinstance(beat, Heartbeat)
    assert (str(beat.address), beat.cid, beat.echoed) == ("vsock::9000", LOCAL, True)
    assert isinstance(beat.peer, VsockAddress)
    assert beat.peer.port >= 1024
    assert await in_thread(enclave) == NO_CONNECTION  # one shot


async def test_a_wrong_byte_is_refused_and_the_next_one_answered() -> None:
    async with serving() as events:
        assert await in_thread(partial(enclave, byte=0)) == NO_ECHO
        assert await in_thread(enclave) == ECHOED
    assert names(events)[1:] == ["connected", "rejected", "connected", "heartbeat", "done"]


async def test_any_byte_is_echoed_when_asked() -> None:
    async with serving(any_byte=True):
        assert await in_thread(partial(enclave, byte=0)) == ECHOED


async def test_the_allow_list_knows_the_peer() -> None:
    async with serving(allow_cids={16}, keep=True) as events:
        assert await in_thread(enclave) == NO_ECHO
    assert isinstance(events[2], Rejected)
    assert (events[2].cid, events[2].reason) == (LOCAL, RejectReason.CID)
    async with serving(allow_cids={16, LOCAL}):
        assert await in_thread(enclave) == ECHOED


async def test_two_ports_are_reported_in_their_order() -> None:
    addresses = [f"vsock:{LOCAL}:9001", "vsock::4294967294"]
    beats: list[Heartbeat] = []

    async def serve(task_status: trio.TaskStatus[object]) -> None:
        beats.extend(await serve_heartbeat(*addresses, task_status=task_status))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            for port in (4294967294, 9001):
                assert await in_thread(partial(enclave, port=port)) == ECHOED
    assert [str(beat.address) for beat in beats] == addresses


@pytest.mark.parametrize("second", ["vsock::9000", f"vsock:{LOCAL}:9000"])
@pytest.mark.parametrize("first", ["vsock::9000", f"vsock:{LOCAL}:9000"])
def test_a_port_that_is_taken(first: str, second: str) -> None:
    with open_listeners([first])[0], pytest.raises(ListenError, match="9000") as no:
        open_listeners([second])
    assert (no.value.address, no.value.errno) == (second, errno.EADDRINUSE)
    open_listeners([second])[0].close()  # free again at once


def test_a_cid_of_another_machine() -> None:
    with pytest.raises(ListenError, match="CID 3 ") as no:
        open_listeners(["vsock:3:9000"])
    assert no.value.errno == errno.EADDRNOTAVAIL
    assert "vsock::9000" in no.value.remedy


def test_the_range_of_ports() -> None:
    for port in (0, 1023, 4294967294):
        open_listeners([f"vsock::{port}"])[0].close()
    with pytest.raises(UsageError):
        open_listeners(["vsock::4294967295"])
    with pytest.raises(AddressError):
        open_listeners(["vsock::4294967296"])


def test_a_low_port_without_privilege() -> None:
    command = (*without_capability("net_bind_service"), *NITROHB)
    with started("-l", "vsock::80", command=command) as script:
        code, out, err = script.end()
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "1024" in err
    assert "EACCES" in err


async def test_a_half_closed_connection_without_a_byte() -> None:
    async with serving() as events:
        assert await in_thread(partial(converse, lambda sock: sock.shutdown(socket.SHUT_WR))) == b""
        assert await in_thread(enclave) == ECHOED
    assert sorted(names(events)) == sorted(
        ["listening", "connected", "disconnected", "connected", "heartbeat", "done"]
    )


async def test_two_hundred_thousand_bytes() -> None:
    async with serving():
        big = partial(converse, lambda sock: sock.sendall(B7 + bytes(199_999)))
        assert await in_thread(big) == B7


async def test_a_silent_client_delays_nobody() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as silent:
        async with serving() as events:
            await in_thread(lambda: silent.connect((LOCAL, 9000)))
            assert await in_thread(enclave) == ECHOED
        silent.settimeout(PATIENCE)
        assert silent.recv(1) == b""
    assert "rejected" in names(events)


def test_the_enclaves_side() -> None:
    address = VsockAddress(LOCAL, 9000)

    async def send() -> float:
        return await send_heartbeat(address, timeout=PATIENCE)

    with running("serve", "--keep", "--format", "json"):
        for backend in ("trio", "asyncio"):
            assert anyio.run(send, backend=backend) > 0
    for backend in ("trio", "asyncio"):
        with pytest.raises(ConnectError, match=r"CID 1 .*9000") as no:
            anyio.run(send, backend=backend)
        assert no.value.errno == errno.ECONNRESET


def test_no_such_machine() -> None:
    with pytest.raises(ConnectError, match="CID 77 ") as no:
        anyio.run(send_heartbeat, "vsock:77:9000", backend="trio")
    assert no.value.errno == errno.ENODEV


@contextmanager
def running(*args: str, command: tuple[str, ...] = NITROHB, ports: int = 1) -> Generator[Script]:
    """Start the script, and wait until it listens."""
    with started(*args, command=command) as server:
        for _ in range(ports):
            assert server.event()["event"] == "listening"
        yield server


def test_the_script_under_our_seccomp_profile() -> None:
    with running("serve", "--format", "json", command=(*UNDER_PROFILE, *NITROHB)) as server:
        assert enclave(byte=0) == NO_ECHO
        assert enclave() == ECHOED
        code, out, err = server.end()
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == [
        *("connected", "rejected"),
        *("connected", "heartbeat", "done"),
    ]
    assert {event["address"] for event in events} == {"vsock::9000"}
    assert [event["cid"] for event in events] == [LOCAL] * 4 + [None]
    assert isinstance(parse_address(events[3]["peer"]), VsockAddress)


def test_an_inherited_socket_where_seccomp_blocks_af_vsock() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
        sock.bind((socket.VMADDR_CID_ANY, 9000))
        sock.listen()
        options = ["-l", f"fd:{sock.fileno()}", "--allow-cid", str(LOCAL), "--format", "json"]
        with child(
            [*NITROHB, *options],
            pass_fds=[sock.fileno()],
            preexec_fn=block_af_vsock,
            stdout=subprocess.PIPE,
        ) as server:
            sock.close()
            assert enclave() == ECHOED
            output, _ = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    beat = json.loads(output.splitlines()[2])
    assert (beat["event"], beat["address"], beat["cid"]) == ("heartbeat", "vsock::9000", LOCAL)
    assert enclave() == NO_CONNECTION


def test_the_script_says_that_the_port_is_taken() -> None:
    with open_listeners(["vsock::9000"])[0]:
        code, out, err = nitrohb_here()
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "vsock::9000" in err


def test_run_starts_the_enclave_when_the_port_is_open() -> None:
    beats = '"$NITROHB_ENCLAVE" 1 9000 183 && echo "$NITROHB_LISTEN"; exit 7'
    with started("run", "--format", "json", "--", "sh", "-c", beats) as script:
        code, out, err = script.end()
    assert (code, out) == (7, "vsock::9000\n")
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == ["listening", "connected", "heartbeat", "done"]
    assert events[2]["cid"] == LOCAL


def test_each_launcher_waits_for_its_own_enclave(tmp_path: Path) -> None:
    """This kernel has one CID, so the enclaves use two ports."""
    api = f"unix:{tmp_path}/api"
    ports = ("vsock::9000", "vsock::9001")
    wait = ("wait", "--api", api, "--format", "json")
    serve = ("serve", "--keep", *(f"-l{port}" for port in ports), "--api", api, "--format", "json")
    with (
        running(*serve, ports=2),
        started(*wait, "--address", ports[0]) as first,
        started(*wait, "--address", ports[1]) as second,
    ):
        for port in (9001, 9000):
            assert enclave(port=port) == ECHOED
        claimed = [json.loads(launcher.end()[1]) for launcher in (first, second)]
        assert [(beat["address"], beat["cid"]) for beat in claimed] == [
            (port, LOCAL) for port in ports
        ]
        code, _, err = nitrohb_here(*wait, "--cid", "77", "--timeout", "0.1")
        assert code == 124
        assert "every VM that is forwarded over the loopback" in err


def test_an_allow_list_cannot_work_over_the_loopback() -> None:
    """Every connection has CID 1 there. One warning says so."""
    with running("serve", "--allow-cid", "16", "--keep", "--format", "json") as server:
        assert enclave() == enclave() == NO_ECHO
        server.popen.terminate()
        code, _, err = server.end()
    assert code == 128 + signal.SIGTERM
    message = json.loads(err)["message"]
    assert "CID 1 on vsock::9000" in message
    assert "sibling VM" in message


def test_our_client_is_not_ended_by_sigpipe() -> None:
    """Kernels from 6.12 on raise it when a client writes to a peer that has closed."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listener:
        listener.settimeout(PATIENCE)
        listener.bind((LOCAL, 9000))
        listener.listen()
        with child([os.environ["NITROHB_ENCLAVE"], str(LOCAL), "9000"]) as client:
            with listener.accept()[0] as conn:
                conn.settimeout(PATIENCE)
                assert conn.recv(1) == B7
                client.send_signal(signal.SIGPIPE)
            assert client.wait(PATIENCE) == NO_ECHO
