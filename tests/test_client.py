# SPDX-License-Identifier: Apache-2.0
"""Both sides of the heartbeat on one connection, under trio and asyncio."""

import errno
import inspect
import math
import os
import pathlib
import select
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any
from unittest.mock import AsyncMock

import anyio
import anyio.abc
import pytest
import trio
import trio.testing

from nitrohb.addresses import CID_ANY, Address, HybridAddress, InheritedSocket, VsockAddress
from nitrohb.client import answer_heartbeat, send_heartbeat
from nitrohb.errors import (
    AddressError,
    ConnectError,
    HeartbeatTimeoutError,
    PeerClosedError,
    PeerError,
    UsageError,
    WrongByteError,
)
from nitrohb.sockets import syscalls

BEAT = b"\xb7"

Script = Callable[[socket.socket], Awaitable[object]]


@pytest.fixture(autouse=True)
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory. With relative paths, pytest cannot exceed 107 bytes."""
    monkeypatch.chdir(tmp_path)


def under_each_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test under trio, and under asyncio."""

    @wraps(test)
    def run(backend: str, **fixtures: object) -> None:
        anyio.run(partial(test, **fixtures), backend=backend)

    backend = inspect.Parameter("backend", inspect.Parameter.KEYWORD_ONLY)
    parameters = [*inspect.signature(test).parameters.values(), backend]
    run.__dict__["__signature__"] = inspect.Signature(
        parameters
    )  # pytest reads this to find fixtures
    marked: Callable[..., None] = pytest.mark.parametrize("backend", ["trio", "asyncio"])(run)
    return marked


def listener(path: str = "a", backlog: int = 10) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    sock.listen(backlog)
    return sock


async def accept(sock: socket.socket) -> socket.socket:
    await anyio.wait_readable(sock)
    conn, _ = sock.accept()
    conn.setblocking(False)
    return conn


async def read(conn: socket.socket) -> bytes:
    await anyio.wait_readable(conn)
    return conn.recv(1_000_000)


@asynccontextmanager
async def parent(script: Script, path: str = "a") -> AsyncGenerator[None]:
    """A parent that runs a script on its one connection, and closes it."""

    async def serve(sock: socket.socket) -> None:
        with await accept(sock) as conn:
            await script(conn)

    with listener(path) as sock:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, sock)
            yield


def answering(answer: bytes, delay: float = 0) -> Script:
    async def script(conn: socket.socket) -> None:
        assert await read(conn) == BEAT
        await anyio.sleep(delay)
        conn.send(answer)

    return script


# --- send_heartbeat: the answer -----------------------------------------------------------------


@under_each_loop
async def test_a_boot() -> None:
    """One byte out, one byte in, close, as init does. Bytes after the echo are ignored."""
    got: list[bytes] = []

    async def script(conn: socket.socket) -> None:
        got.append(await read(conn))
        conn.send(BEAT + b"and more")
        got.append(await read(conn))  # data left unread would reset the connection

    addresses: list[tuple[str | Address, str]] = [
        ("unix:a", "a"),
        ("hybrid:vm4:9000", "vm4_9000"),
        (HybridAddress("vm4", 1), "vm4_1"),
    ]
    for address, path in addresses:
        got.clear()
        async with parent(script, path):
            assert 0 <= await send_heartbeat(address) < 5
        assert got == [BEAT, b""], address


@under_each_loop
async def test_a_parent_that_is_closed_before_it_accepts() -> None:
    async def send() -> None:
        with pytest.raises(PeerClosedError):
            await send_heartbeat("unix:a")

    async with anyio.create_task_group() as tasks:
        with listener() as sock:
            tasks.start_soon(send)
            await anyio.wait_readable(sock)


async def hang_up(conn: socket.socket) -> None:
    pass


@under_each_loop
async def test_a_parent_that_does_not_echo() -> None:
    """The second script closes with unread data, which resets the peer of a Unix socket."""
    scripts: dict[str, tuple[Script, type[PeerError]]] = {
        "hang_up": (hang_up, PeerClosedError),
        "unread": (anyio.wait_readable, PeerClosedError),
        "read": (read, PeerClosedError),
        "0x00": (answering(b"\x00"), WrongByteError),
        "0xB6": (answering(b"\xb6\xb7"), WrongByteError),
        "0x48": (answering(b"HTTP/1.1 400 Bad Request\r\n"), WrongByteError),
    }
    for path, (script, error) in scripts.items():
        async with parent(script, path):
            with pytest.raises(error, match=f"unix:{path}") as caught:
                await send_heartbeat(f"unix:{path}")
        if isinstance(caught.value, WrongByteError):
            assert f"sent {path}" in str(caught.value)
            assert caught.value.byte == int(path, 16)


# --- send_heartbeat: time -----------------------------------------------------------------------


async def test_an_echo_at_the_last_moment(autojump_clock: trio.testing.MockClock) -> None:
    async with parent(answering(BEAT, delay=4.999)):
        assert await send_heartbeat("unix:a") == pytest.approx(4.999)


async def test_a_parent_that_stays_silent(autojump_clock: trio.testing.MockClock) -> None:
    """The default is 5 s. None waits without a limit, as init does."""
    with listener():
        with trio.move_on_after(1e9) as scope:
            await send_heartbeat("unix:a", timeout=None)
        assert scope.cancelled_caught
        for send, timeout in (
            (send_heartbeat, 5),
            (partial(send_heartbeat, timeout=0.25), 0.25),
            (partial(send_heartbeat, timeout=1e6), 1e6),
        ):
            began = trio.current_time()
            with pytest.raises(HeartbeatTimeoutError) as caught:
                await send("unix:a")
            assert trio.current_time() - began == pytest.approx(timeout, abs=1e-3)
            assert "unix:a" in str(caught.value)
            assert f" {timeout:g} s" in str(caught.value)
            assert "did not answer" in str(caught.value)


@under_each_loop
async def test_no_time_at_all() -> None:
    with listener() as sock:
        with pytest.raises(HeartbeatTimeoutError, match=" 0 s"):
            await send_heartbeat("unix:a", timeout=0)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.accept()


@under_each_loop
async def test_a_cancellation_closes_the_connection() -> None:
    with listener() as sock:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_heartbeat, "unix:a")
            with await accept(sock) as conn:
                assert await read(conn) == BEAT
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    assert await read(conn) == b""


async def test_it_always_executes_a_checkpoint() -> None:
    async with parent(answering(BEAT)):
        with trio.testing.assert_checkpoints():
            await send_heartbeat("unix:a")
    with trio.testing.assert_checkpoints(), pytest.raises(ConnectError):
        await send_heartbeat("unix:nobody")


# --- send_heartbeat: no connection --------------------------------------------------------------


async def check_refused(address: str, number: int | None) -> None:
    """A ConnectError says in one line what is wrong, and in the next what to do."""
    with pytest.raises(ConnectError) as caught:
        await send_heartbeat(address)
    assert (caught.value.address, caught.value.errno) == (address, number)
    assert address in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@under_each_loop
async def test_no_connection_to_a_path() -> None:
    await check_refused("unix:nobody", errno.ENOENT)
    listener("dead").close()
    await check_refused("unix:dead", errno.ECONNREFUSED)
    pathlib.Path("file").touch()
    await check_refused("unix:file", errno.ECONNREFUSED)
    await check_refused("unix:file/socket", errno.ENOTDIR)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("datagrams")
        await check_refused("unix:datagrams", errno.EPROTOTYPE)
    with listener("full", backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect("full")
        await check_refused("unix:full", errno.EAGAIN)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("fd:3", " fd:3: .* listening socket"),
        (InheritedSocket(3), " fd:3: .* listening socket"),
        ("vsock::9000", r" vsock::9000: .*\n.* vsock:3:9000\.$"),
        (VsockAddress(CID_ANY, 7), r" vsock::7: .*\n.*vsock:CID:PORT"),
        (9000, "^9000 is not an address"),
        (b"unix:x", "^b'unix:x' is not an address"),
    ],
)
async def test_an_address_to_which_you_cannot_connect(address: Any, said: str) -> None:
    with trio.testing.assert_no_checkpoints(), pytest.raises(UsageError, match=said):
        await send_heartbeat(address)


async def test_wrong_arguments() -> None:
    with pytest.raises(AddressError, match="nonsense"):
        await send_heartbeat("nonsense")
    for timeout in (-1.0, math.nan):
        with pytest.raises(UsageError, match=f"timeout .*{timeout}"):
            await send_heartbeat("unix:x", timeout=timeout)


# --- send_heartbeat on AF_VSOCK, by scripted sockets --------------------------------------------


class Scripted(socket.socket):
    """One end of a socket pair. Its connect() can act like that of AF_VSOCK."""

    connect_result = errno.EINPROGRESS
    so_error = 0
    connected_to: object = None

    def connect_ex(self, address: object) -> int:
        assert not self.getblocking()
        self.connected_to = address
        return self.connect_result

    def getsockopt(self, level: int, name: int) -> int:  # type: ignore[override]
        assert (level, name) == (socket.SOL_SOCKET, socket.SO_ERROR)
        assert select.select([], [self], [], 0)[1], "it says nothing before the socket is ready"
        return self.so_error


class Wire:
    """Replaces new_socket(), and has the other end of each socket."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.sock = Scripted(fileno=ours.detach())
        self.address: object = None

    def new_socket(self, address: syscalls.SocketAddress) -> socket.socket:
        self.address = address
        return self.sock

    def fill(self) -> int:
        """Fill the buffer, so that the socket is not writable. Return the number of bytes."""
        self.sock.setblocking(False)
        count = 0
        try:
            while True:
                count += self.sock.send(bytes(10_000))
        except BlockingIOError:
            return count

    async def drain(self, count: int) -> bytes:
        """Read the bytes of fill(), and return those after them."""
        while count > 0:
            count -= len(self.peer.recv(min(count, 100_000)))
        return await read(self.peer)


@pytest.fixture
def vsock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    made = Wire()
    monkeypatch.setattr(syscalls, "new_socket", made.new_socket)
    yield made
    made.peer.close()
    assert made.sock.fileno() == -1, "send_heartbeat() left its socket open"


@under_each_loop
async def test_the_default_is_the_parent_of_every_enclave(vsock: Wire) -> None:
    vsock.peer.send(BEAT)
    await send_heartbeat()
    assert vsock.address == VsockAddress(3, 9000)
    assert vsock.sock.connected_to == (3, 9000)
    assert vsock.peer.recv(10) == BEAT


@pytest.mark.parametrize("connect_result", [errno.EINPROGRESS, 0])
@under_each_loop
async def test_a_socket_without_room_is_waited_for(connect_result: int, vsock: Wire) -> None:
    """AF_VSOCK connects in the background, and is writable once it has."""
    vsock.sock.connect_result = connect_result
    full = vsock.fill()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(send_heartbeat))
        await anyio.wait_all_tasks_blocked()
        assert vsock.sock.connected_to == (3, 9000)
        assert await vsock.drain(full) == BEAT
        vsock.peer.send(BEAT)


@under_each_loop
async def test_a_parent_that_is_gone_before_the_byte_is_sent(vsock: Wire) -> None:
    vsock.peer.close()
    with pytest.raises(PeerClosedError):
        await send_heartbeat()


async def test_a_connect_that_never_ends(
    vsock: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    vsock.fill()
    with pytest.raises(HeartbeatTimeoutError, match="vsock:3:9000 did not accept"):
        await send_heartbeat(timeout=2)
    assert autojump_clock.current_time() == 2


@pytest.mark.parametrize("attribute", ["connect_result", "so_error"])
@under_each_loop
async def test_vsock_refuses_at_once_or_later(attribute: str, vsock: Wire) -> None:
    setattr(vsock.sock, attribute, errno.ECONNRESET)
    await check_refused("vsock:3:9000", errno.ECONNRESET)


@under_each_loop
async def test_no_vsock_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.EAFNOSUPPORT, errno.EPERM, errno.EMFILE):

        def fail(address: syscalls.SocketAddress, number: int = number) -> socket.socket:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(syscalls, "new_socket", fail)
            await check_refused("vsock:3:9000", number)
    monkeypatch.setattr(syscalls, "AF_VSOCK", None)
    await check_refused("vsock:3:9000", None)


# --- answer_heartbeat ---------------------------------------------------------------------------

# The bytes of the peer, whether any byte counts, and the echo; None for an error.
ANSWERS = [(BEAT, False, BEAT), (BEAT, True, BEAT), (b"\x01", True, b"\x01"), (b"G", False, None)]


async def check_answer(stream: Any, any_byte: bool, echo: bytes | None) -> None:
    if echo is not None:
        assert await answer_heartbeat(stream, any_byte=any_byte) is True
    else:
        with pytest.raises(WrongByteError, match="0x47"):
            await answer_heartbeat(stream, any_byte=any_byte)


async def test_answering_leaves_a_trio_stream_to_its_owner() -> None:
    for sent, any_byte, echo in ANSWERS:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(sent + b"{}")
        await check_answer(ours, any_byte, echo)
        assert await ours.receive_some(10) == b"{}"
        await ours.send_all(b"arguments")
        assert await theirs.receive_some(100) == (echo or b"") + b"arguments"


@under_each_loop
async def test_answering_leaves_an_anyio_stream_to_its_owner() -> None:
    for number, (sent, any_byte, echo) in enumerate(ANSWERS):
        async with connection(str(number)) as (stream, peer):
            peer.send(sent + b"{}")
            await check_answer(stream, any_byte, echo)
            assert await stream.receive() == b"{}"
            await stream.send(b"arguments")
            assert await read(peer) == (echo or b"") + b"arguments"


@asynccontextmanager
async def connection(path: str = "a") -> AsyncGenerator[tuple[anyio.abc.ByteStream, socket.socket]]:
    """A stream of anyio, and the socket at its other end."""
    with listener(path) as sock:
        async with await anyio.connect_unix(path) as stream:
            with await accept(sock) as conn:
                yield stream, conn


async def test_a_trio_stream_that_ends() -> None:
    for any_byte in (True, False):
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_eof()
        with pytest.raises(PeerClosedError, match="next connection"):
            await answer_heartbeat(ours, any_byte=any_byte)
        await ours.send_all(b"still open")


async def test_a_trio_stream_that_breaks() -> None:
    async def broken() -> None:
        raise trio.BrokenResourceError

    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(BEAT)
    ours.send_stream.send_all_hook = broken
    assert await answer_heartbeat(ours) is False
    ours.receive_stream.receive_some_hook = broken
    with pytest.raises(PeerClosedError):
        await answer_heartbeat(ours)


async def test_a_stream_that_its_owner_has_closed_is_the_owners_bug() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await answer_heartbeat(ours)


async def test_answering_has_no_time_limit(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.move_on_after(1e9) as scope:
        await answer_heartbeat(ours)
    assert scope.cancelled_caught
    await theirs.send_all(BEAT)
    with trio.testing.assert_checkpoints():
        assert await answer_heartbeat(ours), "a cancellation before the byte loses nothing"


@under_each_loop
async def test_an_anyio_stream_that_ends() -> None:
    async with connection() as (stream, peer):
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerClosedError):
            await answer_heartbeat(stream)
        await stream.send(b"still open")
        assert await read(peer) == b"still open"


@under_each_loop
async def test_an_anyio_stream_that_is_reset() -> None:
    async with connection() as (stream, peer):
        await stream.send(b"unread")
        await anyio.wait_readable(peer)
        peer.close()
        with pytest.raises(PeerClosedError):
            await answer_heartbeat(stream)


@under_each_loop
async def test_an_anyio_stream_that_breaks() -> None:
    stream = AsyncMock(anyio.abc.ByteStream)
    stream.receive.return_value = BEAT
    stream.send.side_effect = anyio.BrokenResourceError
    assert await answer_heartbeat(stream) is False
    stream.receive.assert_awaited_once_with(1)
    stream.send.assert_awaited_once_with(BEAT)
    stream.receive.side_effect = anyio.BrokenResourceError
    with pytest.raises(PeerClosedError):
        await answer_heartbeat(stream)


def test_an_asyncio_program_does_not_load_trio() -> None:
    code = """
import asyncio, socket, sys, anyio, nitrohb
async def main():
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("a")
    sock.listen()
    async with await anyio.connect_unix("a") as stream:
        conn, _ = sock.accept()
        conn.send(b"\\xb7")
        assert await nitrohb.answer_heartbeat(stream)
        sending = asyncio.create_task(nitrohb.send_heartbeat("unix:a"))
        await anyio.wait_readable(sock)
        sock.accept()[0].send(b"\\xb7")
        await sending
asyncio.run(main())
print("trio" in sys.modules)
"""
    command = [sys.executable, "-I", "-c", code]
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert run.stdout == "False\n"
