# SPDX-License-Identifier: Apache-2.0
"""The console of a guest: which lines it keeps, and how it follows a VMM."""

import asyncio
import errno
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from nitrohb import Console, UnixAddress, UsageError
from nitrohb.console import LINE_MAX, LINES, Tail, enclave_console

from .support import settled

PIECES = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 3 * LINES).map(lambda count: b"%d\n" % count * count),
    st.integers(LINE_MAX - 2, LINE_MAX + 2).map(lambda size: b"x" * size),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "serial"


def kept(pieces: list[bytes]) -> list[str]:
    tail = Tail()
    for piece in pieces:
        tail.feed(piece)
    return tail.lines()


# The lines.


@given(st.lists(PIECES, max_size=8))
def test_the_last_lines_are_kept_however_the_bytes_are_cut(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    lines = [kept([line]) or [""] for line in whole.removesuffix(b"\n").split(b"\n")]
    assert kept(pieces) == [line for (line,) in lines][-LINES:] * bool(whole)


@given(st.binary(max_size=50))
def test_all_output_of_the_guest_is_safe_to_print(data: bytes) -> None:
    assert "".join(kept([data])).isprintable()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"\r\x1b[31mred\x1b[0m\r\n", r"\x1b[31mred\x1b[0m"),
        (b"a\tb\n", "a       b"),
        (b"\xe9 \xff\n", r"\xe9 \xff"),
        ("é \u202e\n".encode(), r"é \u202e"),
        (b"x" * LINE_MAX + b"\n", "x" * LINE_MAX),
        (b"x" * (LINE_MAX + 1) + b"\n", "x" * LINE_MAX + "..."),
    ],
)
def test_how_a_line_is_shown(line: bytes, shown: str) -> None:
    assert kept([line]) == [shown]


# The VMM.


@contextmanager
def vmm(path: Path) -> Generator[socket.socket]:
    """Offer a console, as a VMM does at its start, and remove it at the end."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.settimeout(0)
        yield server
    path.unlink()


async def accepted(server: socket.socket) -> socket.socket:
    await trio.lowlevel.wait_readable(server)
    conn, _ = server.accept()
    return conn


@asynccontextmanager
async def reading(
    path: Path, on_data: Callable[[bytes], object] = lambda _: None
) -> AsyncGenerator[Console]:
    console = Console(UnixAddress(str(path)), on_data=on_data)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(console.run)
        yield console
        nursery.cancel_scope.cancel()


async def test_a_vmm_that_starts_later_and_again(path: Path, autojump_clock: MockClock) -> None:
    """If it was killed, its last line has no end."""
    errors: list[object] = []
    async with reading(path) as console:
        await console.attempted.wait()
        await trio.sleep(60)
        assert console.error is not None
        assert console.error.errno == errno.ENOENT
        for words in (b"one\ntw", b"three\n"):
            with vmm(path) as server, await accepted(server) as conn:
                errors.append(console.error)
                conn.send(words)
            await trio.sleep(1)
    assert errors == [None, None]
    assert console.tail() == ["one", "tw", "three"]


async def test_the_tail_has_the_bytes_that_have_just_arrived(path: Path) -> None:
    """The VMM has ended, and so has the command that waits for it."""
    async with reading(path) as console:
        with vmm(path) as server, await accepted(server) as conn:
            await settled()
            conn.send(b"panic")
            conn.close()
            assert console.tail() == ["panic"]


async def test_bytes_before_the_cancellation_are_kept(path: Path) -> None:
    data: list[bytes] = []
    with vmm(path) as server:
        async with reading(path, data.append) as console:
            with await accepted(server) as conn:
                conn.send(b"\x1b[2Jone\n")
                await settled()
                conn.send(b"two")
    assert b"".join(data) == b"\x1b[2Jone\ntwo"
    assert console.tail() == [r"\x1b[2Jone", "two"]


async def test_a_flood_does_not_block_other_tasks(path: Path) -> None:
    """Each read finds the socket full again."""
    conn: socket.socket

    def fill(_: bytes = b"") -> None:
        with suppress(BlockingIOError):
            while True:
                conn.send(b"x" * 65536)

    with vmm(path) as server:
        async with reading(path, fill):
            conn = await accepted(server)
            conn.setblocking(False)
            fill()
            await settled()
        conn.close()


def test_it_runs_under_asyncio(path: Path) -> None:
    async def read(server: socket.socket) -> list[str]:
        console = Console(f"unix:{path}")
        task = asyncio.create_task(console.run())
        with (await asyncio.get_running_loop().sock_accept(server))[0] as conn:
            conn.send(b"hello")
        while not console.tail():
            await asyncio.sleep(0)
        task.cancel()
        return console.tail()

    with vmm(path) as server:
        assert asyncio.run(read(server)) == ["hello"]


# The address.


@pytest.mark.parametrize("address", ["fd:3", "vsock::10016"])
def test_an_address_to_which_you_cannot_connect(address: str) -> None:
    with pytest.raises(UsageError, match=address):
        Console(address)


@pytest.mark.parametrize(("cid", "port"), [(16, 10016), (2**32 - 2, 9998)])
def test_where_the_console_of_an_enclave_is(cid: int, port: int) -> None:
    """For every CID, because nitrohb takes it from a peer. nitro-cli adds in 32 bits, too."""
    assert str(enclave_console(cid)) == f"vsock:0:{port}"
