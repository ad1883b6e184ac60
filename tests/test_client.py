# SPDX-License-Identifier: Apache-2.0
"""Both sides of the heartbeat on connections of one's own, under trio and asyncio."""

import errno
import math
import os
import pathlib
import select
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import anyio
import anyio.abc
import pytest
import trio
import trio.testing

from nitrohb import wire
from nitrohb.addresses import CID_ANY, Address, HybridAddress, InheritedSocket, VsockAddress
from nitrohb.client import answer_heartbeat, send_heartbeat
from nitrohb.errors import (
    AddressError,
    ConnectError,
    PeerClosedError,
    PeerError,
    PeerTimeoutError,
    UsageError,
    WrongByteError,
)

BEAT = b"\xb7"

AsyncTest = Callable[[], Awaitable[None]]
Script = Callable[[socket.socket], Awaitable[object]]


@pytest.fixture(autouse=True)
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory, so that paths stay shorter than 108 bytes wherever pytest puts it."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[AsyncTest], None]:
    """Runs an async function in an event loop of each kind."""
    return partial(anyio.run, backend=request.param)


Run = Callable[[AsyncTest], None]


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
    """A parent that does with its one connection what the script says, and closes it."""

    async def serve(sock: socket.socket) -> None:
        with await accept(sock) as conn:
            await script(conn)

    with listener(path) as sock:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, sock)
            yield


async def echo(conn: socket.socket) -> None:
    conn.send(await read(conn))


# --- send_heartbeat: what may come back ---------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "path"),
    [("unix:a", "a"), ("hybrid:vm4:9000", "vm4_9000"), (HybridAddress("vm4", 1), "vm4_1")],
    ids=str,
)
def test_a_boot(run: Run, address: str | Address, path: str) -> None:
    """Exactly as init does it: one byte out, one byte in, close."""
    got: list[bytes] = []

    async def script(conn: socket.socket) -> None:
        got.append(await read(conn))
        conn.send(BEAT)
        got.append(await read(conn))

    async def boot() -> None:
        async with parent(script, path):
            assert 0 <= await send_heartbeat(address) < 5

    run(boot)
    assert got == [BEAT, b""]


def test_what_follows_the_echo_is_not_looked_at(run: Run) -> None:
    async def script(conn: socket.socket) -> None:
        conn.send(await read(conn) + b"and more")
        assert await read(conn) == b"", "data left unread would reset the connection"

    async def boot() -> None:
        async with parent(script):
            await send_heartbeat("unix:a")

    run(boot)


async def hang_up(conn: socket.socket) -> None:
    pass


async def hang_up_unread(conn: socket.socket) -> None:
    await anyio.wait_readable(conn)  # closing with data unread resets a Unix socket's peer


async def read_and_hang_up(conn: socket.socket) -> None:
    await read(conn)


@pytest.mark.parametrize("script", [hang_up, hang_up_unread, read_and_hang_up])
def test_a_parent_that_closes_without_an_echo(run: Run, script: Script) -> None:
    async def boot() -> None:
        async with parent(script):
            with pytest.raises(PeerClosedError) as caught:
                await send_heartbeat("unix:a")
        assert str(caught.value) == "unix:a closed the connection without sending a byte"

    run(boot)


def test_a_parent_that_is_closed_before_it_accepts(run: Run) -> None:
    async def send() -> None:
        with pytest.raises(PeerClosedError):
            await send_heartbeat("unix:a")

    async def boot() -> None:
        async with anyio.create_task_group() as tasks:
            with listener() as sock:
                tasks.start_soon(send)
                await anyio.wait_readable(sock)

    run(boot)


@pytest.mark.parametrize("answer", [b"\x00", b"\xb6\xb7", b"HTTP/1.1 400 Bad Request\r\n"])
def test_a_parent_that_answers_something_else(run: Run, answer: bytes) -> None:
    async def script(conn: socket.socket) -> None:
        await read(conn)
        conn.send(answer)

    async def boot() -> None:
        async with parent(script):
            with pytest.raises(WrongByteError) as caught:
                await send_heartbeat("unix:a")
        assert str(caught.value) == f"unix:a sent 0x{answer[0]:02X}, not the heartbeat 0xB7"
        assert caught.value.byte == answer[0]

    run(boot)


# --- send_heartbeat: time -----------------------------------------------------------------------


async def test_the_time_it_took(autojump_clock: trio.testing.MockClock) -> None:
    async def script(conn: socket.socket) -> None:
        got = await read(conn)
        await trio.sleep(3)
        conn.send(got)

    async with parent(script):
        assert await send_heartbeat("unix:a") == 3


@pytest.mark.parametrize(("timeout", "text"), [(5.0, "5 s"), (0.25, "0.25 s"), (1e6, "1e+06 s")])
async def test_a_parent_that_stays_silent(
    timeout: float, text: str, autojump_clock: trio.testing.MockClock
) -> None:
    with listener():
        with pytest.raises(PeerTimeoutError) as caught:
            await send_heartbeat("unix:a", timeout=timeout)
        assert autojump_clock.current_time() == timeout
    assert str(caught.value) == f"unix:a did not answer within {text}"
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, PeerError)


async def test_by_default_it_waits_for_five_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with listener(), pytest.raises(PeerTimeoutError):
        await send_heartbeat("unix:a")
    assert autojump_clock.current_time() == 5


async def test_it_may_wait_for_ever_as_init_does(autojump_clock: trio.testing.MockClock) -> None:
    with listener(), trio.move_on_after(1e9) as scope:
        await send_heartbeat("unix:a", timeout=None)
    assert scope.cancelled_caught


async def test_an_echo_at_the_last_moment(autojump_clock: trio.testing.MockClock) -> None:
    async def script(conn: socket.socket) -> None:
        got = await read(conn)
        await trio.sleep(4.999)
        conn.send(got)

    async with parent(script):
        assert await send_heartbeat("unix:a") == pytest.approx(4.999)


def test_no_time_at_all(run: Run) -> None:
    async def boot() -> None:
        with listener() as sock:
            with pytest.raises(PeerTimeoutError, match=r"^unix:a did not answer within 0 s$"):
                await send_heartbeat("unix:a", timeout=0)
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.accept()

    run(boot)


def test_a_cancellation_closes_the_connection(run: Run) -> None:
    async def boot() -> None:
        with listener() as sock:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_heartbeat, "unix:a")
                conn = await accept(sock)
                with conn:
                    assert await read(conn) == BEAT
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        assert await read(conn) == b""

    run(boot)


async def test_it_always_executes_a_checkpoint() -> None:
    async with parent(echo):
        with trio.testing.assert_checkpoints():
            await send_heartbeat("unix:a")
    with trio.testing.assert_checkpoints(), pytest.raises(ConnectError):
        await send_heartbeat("unix:nobody")


# --- send_heartbeat: no connection to be had ----------------------------------------------------


def refused(run: Run, address: str | Address) -> ConnectError:
    found: list[ConnectError] = []

    async def boot() -> None:
        with pytest.raises(ConnectError) as caught:
            await send_heartbeat(address)
        found.append(caught.value)

    run(boot)
    return found[0]


def explained(error: ConnectError, number: int | None, reason: str, remedy: str) -> None:
    """One line of what is wrong, one of what helps."""
    assert error.errno == number
    first, second = str(error).splitlines()
    assert first.startswith(f"cannot connect to {error.address}: ")
    assert reason in first
    assert remedy in second


def test_nobody_there(run: Run) -> None:
    error = refused(run, "unix:a")
    explained(error, errno.ENOENT, "a does not exist", "nitrohb serve -l unix:a")


def test_a_dead_socket(run: Run) -> None:
    listener().close()
    error = refused(run, "unix:a")
    explained(error, errno.ECONNREFUSED, "nobody listens there", "nitrohb serve -l unix:a")


def test_a_file(run: Run) -> None:
    pathlib.Path("a").touch()
    explained(refused(run, "unix:a"), errno.ECONNREFUSED, "a is not a socket", "of a heartbeat")


def test_a_directory_that_is_a_file(run: Run) -> None:
    pathlib.Path("a").touch()
    explained(refused(run, "unix:a/b"), errno.ENOTDIR, "a is not a directory", "another path")


def test_another_kind_of_socket(run: Run) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("a")
        error = refused(run, "unix:a")
    explained(error, errno.EPROTOTYPE, "it is not a stream socket", "of a heartbeat server")


def test_a_server_that_does_not_accept(run: Run) -> None:
    with listener(backlog=0), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
        first.connect("a")
        error = refused(run, "unix:a")
    explained(error, errno.EAGAIN, "too many connections wait there", "does not accept them")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("fd:3", "^fd:3 is a listening socket: "),
        (InheritedSocket(3), "^fd:3 is a listening socket: "),
        ("vsock::9000", "^vsock::9000 names no machine .*: write vsock:3:9000 "),
        (VsockAddress(CID_ANY, 7), "^vsock::7 names no machine .*: write vsock:3:7 "),
    ],
)
async def test_an_address_that_is_not_one_to_connect_to(address: str | Address, said: str) -> None:
    with trio.testing.assert_no_checkpoints(), pytest.raises(UsageError, match=said):
        await send_heartbeat(address)


async def test_a_malformed_address() -> None:
    with pytest.raises(AddressError, match=r"^'nonsense' is not an address"):
        await send_heartbeat("nonsense")


# --- send_heartbeat on AF_VSOCK, by scripted sockets --------------------------------------------


class Scripted(socket.socket):
    """One end of a socket pair, whose connect() goes as AF_VSOCK's may."""

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
    """What takes the place of new_socket(), and the other end of what it gives out."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        self.sock = Scripted(fileno=ours.detach())
        self.address: object = None

    def new_socket(self, address: wire.SocketAddress) -> socket.socket:
        self.address = address
        return self.sock

    def fill(self) -> int:
        """Leave no room to write, so that the socket is not ready; returns how much it took."""
        self.sock.setblocking(False)
        count = 0
        try:
            while True:
                count += self.sock.send(bytes(10_000))
        except BlockingIOError:
            return count

    async def drain(self, count: int) -> bytes:
        """Read what fill() left, and return what comes after it."""
        while count > 0:
            count -= len(self.peer.recv(min(count, 100_000)))
        return await read(self.peer)


@pytest.fixture
def vsock(monkeypatch: pytest.MonkeyPatch) -> Generator[Wire]:
    made = Wire()
    monkeypatch.setattr(wire, "new_socket", made.new_socket)
    yield made
    made.peer.close()
    assert made.sock.fileno() == -1, "send_heartbeat() left its socket open"


def test_the_default_is_the_parent_of_every_enclave(run: Run, vsock: Wire) -> None:
    vsock.peer.send(BEAT)
    run(send_and_forget)
    assert vsock.address == VsockAddress(3, 9000)
    assert vsock.sock.connected_to == (3, 9000)
    assert vsock.peer.recv(10) == BEAT


async def send_and_forget() -> None:
    await send_heartbeat()


def test_a_connect_in_progress_is_waited_for(run: Run, vsock: Wire) -> None:
    """AF_VSOCK connects in the background, and is writable once it has."""
    full = vsock.fill()

    async def boot() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_and_forget)
            await anyio.wait_all_tasks_blocked()
            assert vsock.sock.connected_to == (3, 9000)
            assert await vsock.drain(full) == BEAT
            vsock.peer.send(BEAT)

    run(boot)


def test_a_byte_for_which_there_is_no_room_yet(run: Run, vsock: Wire) -> None:
    vsock.sock.connect_result = 0
    full = vsock.fill()

    async def boot() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_and_forget)
            await anyio.wait_all_tasks_blocked()
            assert await vsock.drain(full) == BEAT
            vsock.peer.send(BEAT)

    run(boot)


def test_a_parent_that_is_gone_before_the_byte_is_sent(run: Run, vsock: Wire) -> None:
    vsock.peer.close()

    async def boot() -> None:
        with pytest.raises(PeerClosedError):
            await send_heartbeat()

    run(boot)


async def test_a_connect_that_never_ends(
    vsock: Wire, autojump_clock: trio.testing.MockClock
) -> None:
    vsock.fill()
    with pytest.raises(PeerTimeoutError, match=r"^vsock:3:9000 did not answer within 2 s$"):
        await send_heartbeat(timeout=2)
    assert autojump_clock.current_time() == 2


@pytest.mark.parametrize(
    ("number", "reason", "remedy"),
    [
        (errno.ECONNRESET, "CID 3 has no listener on port 9000", "nitrohb serve -l vsock::9000"),
        (errno.ENODEV, "CID 3 cannot be reached from here", "Check the CID"),
        (errno.ETIMEDOUT, "CID 3 does not answer", "the machine is running"),
        (errno.ENXIO, "No such device or address", "nitrohb doctor"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_vsock_refuses(
    run: Run, vsock: Wire, number: int, reason: str, remedy: str, at_once: bool
) -> None:
    if at_once:
        vsock.sock.connect_result = number
    else:
        vsock.sock.so_error = number
    explained(refused(run, "vsock:3:9000"), number, reason, remedy)


def test_a_socket_file_that_is_not_ours_to_use(run: Run, vsock: Wire) -> None:
    vsock.sock.connect_result = errno.EACCES
    explained(refused(run, "unix:a"), errno.EACCES, "not be used by this user", "--socket-mode")


@contextmanager
def new_socket_fails(number: int) -> Generator[None]:
    def fail(address: wire.SocketAddress) -> socket.socket:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "new_socket", fail)
        yield


@pytest.mark.parametrize(
    ("number", "reason", "remedy"),
    [
        (errno.EAFNOSUPPORT, "this kernel has no AF_VSOCK", "modprobe vsock"),
        (errno.EPERM, "seccomp", "Allow AF_VSOCK"),
        (errno.EMFILE, "this process has too many open files", "ulimit -n"),
    ],
)
def test_no_vsock_socket(run: Run, number: int, reason: str, remedy: str) -> None:
    with new_socket_fails(number):
        explained(refused(run, "vsock:3:9000"), number, reason, remedy)


def test_a_python_without_af_vsock(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "AF_VSOCK", None)
    explained(refused(run, "vsock:3:9000"), None, "this Python was built without", "Use another")


# --- answer_heartbeat on streams of trio --------------------------------------------------------


async def test_answering_leaves_the_stream_to_its_owner() -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def enclave() -> None:
        await theirs.send_all(BEAT + b"{}")
        assert await theirs.receive_some(1) == BEAT
        await theirs.send_all(b"more")
        assert await theirs.receive_some(10) == b"arguments"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enclave)
        assert await answer_heartbeat(ours) is True
        assert await ours.receive_some(2) == b"{}"
        assert await ours.receive_some(4) == b"more"
        await ours.send_all(b"arguments")


async def test_any_byte_is_echoed_if_so_asked() -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()

    async def enclave() -> None:
        await theirs.send_all(b"\x01")
        assert await theirs.receive_some(10) == b"\x01"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enclave)
        assert await answer_heartbeat(ours, any_byte=True) is True


async def test_a_wrong_byte_is_not_answered_and_the_rest_is_left() -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def enclave() -> None:
        await theirs.send_all(b"GET /")
        assert await theirs.receive_some(10) == b"400", "nothing may come before this"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enclave)
        with pytest.raises(WrongByteError, match=r"^the peer sent 0x47, not the heartbeat 0xB7$"):
            await answer_heartbeat(ours)
        assert await ours.receive_some(10) == b"ET /"
        await ours.send_all(b"400")


@pytest.mark.parametrize("any_byte", [True, False])
async def test_an_end_without_a_byte(any_byte: bool) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_eof()
    with pytest.raises(PeerClosedError, match=r"^the peer closed the connection without sending"):
        await answer_heartbeat(ours, any_byte=any_byte)
    await ours.aclose()


def breaking(*, reads: bool = False, writes: bool = False) -> trio.abc.Stream:
    """A stream that holds a heartbeat, and breaks where it is read or written."""

    async def broken() -> None:
        raise trio.BrokenResourceError

    received = trio.testing.MemoryReceiveStream(broken if reads else None)
    received.put_data(BEAT)
    return trio.StapledStream(trio.testing.MemorySendStream(broken if writes else None), received)


async def test_a_trio_stream_that_breaks_while_it_is_read() -> None:
    with pytest.raises(PeerClosedError):
        await answer_heartbeat(breaking(reads=True))


async def test_a_trio_stream_that_breaks_while_it_is_written() -> None:
    assert await answer_heartbeat(breaking(writes=True)) is False


async def test_a_stream_that_its_owner_has_closed_is_the_owners_bug() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    await ours.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await answer_heartbeat(ours)


async def test_answering_has_no_time_limit_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.move_on_after(1e9) as scope:
        await answer_heartbeat(ours)
    assert scope.cancelled_caught
    await theirs.send_all(BEAT)
    with trio.testing.assert_checkpoints():
        assert await answer_heartbeat(ours), "a cancellation before the byte loses nothing"


# --- answer_heartbeat on streams of anyio -------------------------------------------------------


@asynccontextmanager
async def connection() -> AsyncGenerator[tuple[anyio.abc.ByteStream, socket.socket]]:
    """A stream of anyio, and the socket at its other end."""
    with listener() as sock:
        async with await anyio.connect_unix("a") as stream:
            with await accept(sock) as conn:
                yield stream, conn


def test_answering_leaves_an_anyio_stream_to_its_owner(run: Run) -> None:
    async def answer() -> None:
        async with connection() as (stream, peer):
            peer.send(BEAT + b"{}")
            assert await answer_heartbeat(stream) is True
            assert await read(peer) == BEAT
            assert await stream.receive() == b"{}"
            await stream.send(b"arguments")
            assert await read(peer) == b"arguments"

    run(answer)


def test_a_wrong_byte_on_an_anyio_stream(run: Run) -> None:
    async def answer() -> None:
        async with connection() as (stream, peer):
            peer.send(b"\x00!")
            with pytest.raises(WrongByteError, match=r"^the peer sent 0x00, "):
                await answer_heartbeat(stream)
            assert await stream.receive() == b"!"
            await stream.send(b"no")
            assert await read(peer) == b"no"

    run(answer)


def test_any_byte_on_an_anyio_stream(run: Run) -> None:
    async def answer() -> None:
        async with connection() as (stream, peer):
            peer.send(b"\x00")
            assert await answer_heartbeat(stream, any_byte=True) is True
            assert await read(peer) == b"\x00"

    run(answer)


def test_an_anyio_stream_that_ends(run: Run) -> None:
    async def answer() -> None:
        async with connection() as (stream, peer):
            peer.shutdown(socket.SHUT_WR)
            with pytest.raises(PeerClosedError):
                await answer_heartbeat(stream)
            await stream.send(b"still open")
            assert await read(peer) == b"still open"

    run(answer)


def test_an_anyio_stream_that_is_reset(run: Run) -> None:
    async def answer() -> None:
        async with connection() as (stream, peer):
            await stream.send(b"unread")
            await anyio.wait_readable(peer)
            peer.close()
            with pytest.raises(PeerClosedError):
                await answer_heartbeat(stream)

    run(answer)


class Broken(anyio.abc.ByteStream):
    """A stream of anyio that holds a heartbeat, and breaks where it is read or written."""

    def __init__(self, *, reads: bool = False) -> None:
        self.reads = reads

    async def receive(self, max_bytes: int = 65536) -> bytes:
        assert max_bytes == 1
        if self.reads:
            raise anyio.BrokenResourceError
        return BEAT

    async def send(self, item: bytes) -> None:
        assert item == BEAT
        raise anyio.BrokenResourceError

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


def test_an_anyio_stream_that_breaks_while_it_is_read(run: Run) -> None:
    async def answer() -> None:
        with pytest.raises(PeerClosedError):
            await answer_heartbeat(Broken(reads=True))

    run(answer)


def test_an_anyio_stream_that_breaks_while_it_is_written(run: Run) -> None:
    async def answer() -> None:
        assert await answer_heartbeat(Broken()) is False

    run(answer)


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
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True
    )
    assert run.stdout == "False\n"


@pytest.mark.parametrize("timeout", [-1.0, math.nan])
def test_a_timeout_that_makes_no_sense(timeout: float) -> None:
    with pytest.raises(UsageError, match="timeout must be at least 0 s"):
        anyio.run(partial(send_heartbeat, "unix:x", timeout=timeout), backend="trio")
