# SPDX-License-Identifier: Apache-2.0
"""Connections, their limits, and their turns, in virtual time."""

import errno
import gc
import logging
import os
import resource
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from hypercorn.trio.tcp_server import TCPServer
from starlette.types import ASGIApp, Receive, Scope, Send
from trio.testing import MockClock

from nitrohb import UnixAddress
from nitrohb.api.app import create_app
from nitrohb.api.requests import HEAD_LIMIT
from nitrohb.api.serving import PASSES, RECEIVE_SIZE, REST, FairQueue, serving
from nitrohb.api.state import ServerState
from nitrohb.cli.serve_api import open_api
from nitrohb.cli.settings import UnixApiSettings
from tests.cli.process import listening
from tests.support import Client, settled

from .support import Passes

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HTTP_2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # no settings
PING = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0)) + bytes(8)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with more than any buffer takes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(10_000_000)})


async def quick(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body of the request, or, if there is none, with a few bytes."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body or b"ok"})


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with listening(tmp_path / "api") as sock:
        yield sock


def connect(listener: socket.socket, number: int, stack: ExitStack) -> list[Client]:
    return [stack.enter_context(Client(listener.getsockname())) for _ in range(number)]


@asynccontextmanager
async def serving_one(listener: socket.socket, app: ASGIApp = quick) -> AsyncGenerator[Client]:
    async with serving(listener, app):
        with Client(listener.getsockname()) as client:
            yield client


async def answered(clients: list[Client], seconds: float) -> int:
    """How many clients have an answer after a while."""
    await trio.sleep(seconds)
    return sum(client.look()[0].startswith(b"HTTP/1.1 200") for client in clients)


async def test_a_client_that_does_not_read_is_cut_off(
    listener: socket.socket, clock: MockClock
) -> None:
    async with serving_one(listener, app) as client:
        client.send(REQUEST)
        await trio.sleep(9)
        assert client.sock.recv(1) == b"H"
        await trio.sleep(2)
        got, ended = client.look()
        assert ended
        assert len(got) < 10_000_000


@pytest.mark.parametrize("before", [b"", REQUEST], ids=["at first", "after a request"])
async def test_a_client_of_http_2_is_disconnected_although_it_goes_on(
    before: bytes, listener: socket.socket, clock: MockClock
) -> None:
    """HTTP/2 is refused, so such a client has no reason to stay."""
    async with serving_one(listener) as client:
        if before:
            client.send(before)
            await trio.sleep(1)
            assert client.look()[0].startswith(b"HTTP/1.1 200")
        client.send(HTTP_2)
        for _ in range(2):
            await trio.sleep(2)
            assert not client.look()[1]
            client.send(PING)
        await trio.sleep(2)
        assert client.look()[1]


async def test_the_bug_of_one_connection_does_not_end_the_others(
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clock: MockClock,
) -> None:
    async def fail(_: object) -> NoReturn:
        raise ZeroDivisionError

    async with serving(listener, quick):
        with monkeypatch.context() as buggy, Client(listener.getsockname()) as client:
            buggy.setattr(TCPServer, "run", fail)
            await trio.sleep(1)
            assert client.look() == (b"", True)
        with Client(listener.getsockname()) as client:
            client.send(REQUEST)
            assert await answered([client], 1) == 1
    messages = [("nitrohb.api.serving", logging.ERROR, "nitrohb: a connection to --api failed")]
    assert caplog.record_tuples == messages


async def test_without_a_free_descriptor_it_tries_again(
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = [errno.EMFILE, errno.EMFILE, errno.ECONNABORTED]
    failures = [OSError(number, os.strerror(number)) for number in numbers]
    kind = type(trio.socket.from_stdlib_socket(listener))
    accept = kind.accept

    async def scarce(self: trio.socket.SocketType) -> object:
        if failures:
            raise failures.pop()
        return await accept(self)

    monkeypatch.setattr(kind, "accept", scarce)
    async with serving_one(listener) as client:
        client.send(REQUEST)
        assert await answered([client], 0.25) == 0
        assert await answered([client], 0.2) == 1
    (message,) = caplog.messages
    assert "--api" in message
    assert "(EMFILE)" in message


class Waits:
    """An application that waits until its client is gone, and tells whether it is."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        try:
            await receive()
            await receive()  # "http.disconnect", or a cancellation
        finally:
            self.is_gone = True


@pytest.mark.parametrize("more", [b"", b"\r\n", b"junk", REQUEST])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_waiting_client_that_disconnects_is_noticed(
    listener: socket.socket, more: bytes, at_once: bool, clock: MockClock
) -> None:
    """Also if it has sent more than its request, which Hypercorn leaves unread."""
    app = Waits()
    async with serving(listener, app):
        with Client(listener.getsockname()) as client:
            client.send(REQUEST + more if at_once else REQUEST)
            await trio.sleep(10)
            if not at_once:
                client.send(more)
            await trio.sleep(10)
            assert not app.is_gone
        await trio.sleep(1.1)
        assert app.is_gone


@pytest.mark.parametrize(
    ("limit", "served"),
    [(10, 1), (66, 1), (84, 10), (1024, 100), (resource.RLIM_INFINITY, 100)],
)
async def test_no_client_takes_the_last_descriptor(
    limit: int,
    served: int,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    clock: MockClock,
) -> None:
    monkeypatch.setattr("nitrohb.api.requests.MAX_CONNECTIONS", 100)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))  # pyright: ignore
    app = Waits()
    with ExitStack() as stack:
        async with serving(listener, app):
            for client in connect(listener, served + 20, stack):
                client.send(REQUEST)
            await trio.sleep(2)
            assert app.calls == served


async def test_simultaneous_requests_are_answered_in_turn(
    listener: socket.socket, clock: MockClock
) -> None:
    with ExitStack() as stack:
        clients = connect(listener, 20, stack)
        for client in clients:
            client.send(REQUEST)
        async with serving(listener, quick):
            now = before = await answered(clients, 0.0005)
            assert before == 1
            for _ in range(30):
                now = await answered(clients, 0.001)
                assert now <= before + 1
                before = now
            assert before == 20


async def test_a_body_is_taken_in_pieces(listener: socket.socket, clock: MockClock) -> None:
    async with serving_one(listener) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
        client.send(bytes(10_000))
        assert await answered([client], 1) == 1


async def test_a_refused_client_that_sends_on_is_disconnected(
    listener: socket.socket, clock: MockClock
) -> None:
    async with serving_one(listener, create_app(ServerState([]))) as client:
        client.send(b"POST /claims HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        client.send(bytes(100_000))
        await trio.sleep(1)
        got, ended = client.look()
        assert (got[:13], ended) == (b"HTTP/1.1 413 ", True)


@pytest.mark.parametrize("piece", [1500, RECEIVE_SIZE, HEAD_LIMIT, 10_000])
@pytest.mark.parametrize("query", ["", "?x"])
async def test_the_limit_of_headers_is_exact(
    query: str, piece: int, listener: socket.socket, clock: MockClock
) -> None:
    """However they are sent: h11 sees only what has not arrived completely."""
    app = create_app(ServerState([]))
    async with serving(listener, app):
        for size, status in ((HEAD_LIMIT, b"200"), (HEAD_LIMIT + 1, b"431"), (10_000, b"431")):
            start = f"GET /healthz{query} HTTP/1.1\r\nHost: x\r\nX: ".encode()
            head = start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"
            with Client(listener.getsockname()) as client:
                for begin in range(0, size, piece):
                    client.send(head[begin : begin + piece])
                    await trio.sleep(0.1)
                got, is_closed = client.look()
                assert got.startswith(b"HTTP/1.1 " + status)
                assert is_closed == (status == b"431")


async def test_many_short_headers_are_refused(listener: socket.socket, clock: MockClock) -> None:
    async with serving_one(listener) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 3000 + b"\r\n")
        await trio.sleep(1)
        assert client.look()[0].startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("follows", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_two_lengths_of_a_body_close_the_connection(
    follows: bytes, listener: socket.socket, clock: MockClock
) -> None:
    """A proxy that believes the other one would take what follows for a part of the body."""
    head = b"POST /rearm HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 99"
    async with serving_one(listener, create_app(ServerState([]))) as client:
        client.send(head + b"\r\n\r\n0\r\n\r\n" + follows)
        await trio.sleep(1)
        got, is_closed = client.look()
        assert is_closed
        assert b"HTTP/1.1 200" not in got
        assert follows or got.startswith(b"HTTP/1.1 400 ")


async def test_loaded_modules_are_not_searched_for_garbage(tmp_path: Path) -> None:
    settings = UnixApiSettings(address=UnixAddress(str(tmp_path / "api")), mode=0o600, group=None)
    with ExitStack() as closing:
        closing.callback(gc.unfreeze)
        async with open_api(settings, [], closing)():
            assert gc.get_freeze_count() > 10_000


async def test_a_client_that_resets_its_connection_before_it_is_accepted(clock: MockClock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serving(listener, quick):
            client = socket.create_connection(listener.getsockname())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            with socket.create_connection(listener.getsockname()) as another:
                another.send(REQUEST)
                await trio.sleep(0.01)
                assert another.recv(8) == b"HTTP/1.1"


async def test_a_client_that_has_disconnected_occupies_no_place(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, clock: MockClock
) -> None:
    monkeypatch.setattr("nitrohb.api.requests.MAX_CONNECTIONS", 1)
    async with serving(listener, quick):
        for _ in range(10):
            with Client(listener.getsockname()) as client:
                client.send(REQUEST)
                assert await answered([client], 0.1) == 1


async def test_a_client_that_stops_sending_gets_its_response(
    listener: socket.socket, clock: MockClock
) -> None:
    async with serving_one(listener) as client:
        client.send(REQUEST)
        client.half_close()
        assert await answered([client], 1) == 1


async def test_requests_of_clients_that_left_are_not_answered(
    listener: socket.socket, clock: MockClock
) -> None:
    async with serving(listener, quick):
        for _ in range(50):
            with Client(listener.getsockname()) as client:
                client.send(REQUEST * 1000)
        with Client(listener.getsockname()) as client:
            client.send(REQUEST)
            assert await answered([client], 0.5) == 1


async def test_clients_that_wait_for_a_turn_are_let_go_at_the_end(
    listener: socket.socket, clock: MockClock
) -> None:
    with ExitStack() as stack:
        clients = connect(listener, 20, stack)
        async with serving(listener, quick):
            await trio.sleep(0.0105)
            began = trio.current_time()
            for client in clients:
                client.send(REQUEST)
            await trio.sleep(0.0025)
        assert trio.current_time() - began < 0.01
        listener.close()
        assert all(client.look()[1] for client in clients)


class Line:
    """Those who queue, and the turns that they have had: who, in which millisecond."""

    def __init__(self, fair: FairQueue, nursery: trio.Nursery) -> None:
        self.fair = fair
        self.had: list[tuple[object, int]] = []
        self._nursery = nursery
        self._began = trio.current_time()

    async def queue(self, who: object, queue: trio.lowlevel.ParkingLot) -> None:
        self._nursery.start_soon(self._take, who, queue)
        for _ in range(2):  # after one of them it may be about to run
            await trio.lowlevel.checkpoint()

    async def _take(self, who: object, queue: trio.lowlevel.ParkingLot) -> None:
        await self.fair.wait_turn(who, queue)
        self.had.append((who, round((trio.current_time() - self._began) * 1000)))


@asynccontextmanager
async def turns() -> AsyncGenerator[Line]:
    fair = FairQueue()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fair.run)
        await settled()
        yield Line(fair, nursery)
        nursery.cancel_scope.cancel()


async def test_a_turn_comes_at_once_and_the_next_a_rest_later(clock: MockClock) -> None:
    assert REST == 0.001
    async with turns() as line:
        for who in "abcd":
            await line.queue(who, line.fair.receiving)
        await trio.sleep(1)
        assert line.had == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
        await line.queue("a", line.fair.receiving)
        await trio.sleep(1)
        assert line.had[-1] == ("a", 1000)


async def test_a_rest_is_as_long_as_what_was_before_it(clock: MockClock) -> None:
    async with turns() as line:
        await line.fair.wait_turn("a", line.fair.receiving)
        await line.queue("b", line.fair.receiving)
        clock.jump(0.005)
        await trio.sleep(1)
        assert line.had == [("b", 10)]


async def test_there_are_many_looks_for_heartbeats_in_a_turn(clock: MockClock) -> None:
    passes = Passes()
    async with turns() as line:
        trio.lowlevel.add_instrument(passes)
        for _ in range(10):
            passes.count = 0
            await line.queue("a", line.fair.receiving)
            await trio.sleep(REST)
            assert passes.count > PASSES


async def test_a_client_that_has_the_turn_does_not_queue(clock: MockClock) -> None:
    async with turns() as line:
        await line.queue("a", line.fair.accepting)
        await line.queue("b", line.fair.accepting)
        while not line.had:
            await trio.lowlevel.checkpoint()
        first = line.had[0][0]
        await line.fair.wait_turn(first, line.fair.receiving)
        await line.fair.wait_turn(first, line.fair.sending)
        assert len(line.had) == 1
        await trio.sleep(REST / 2)
        await line.queue(first, line.fair.receiving)  # its turn is over
        await trio.sleep(1)
        assert [when for _, when in line.had] == [0, 1, 2]


async def test_a_flood_in_one_queue_does_not_hold_up_the_others(clock: MockClock) -> None:
    async with turns() as line:
        for number in range(100):
            await line.queue(number, line.fair.receiving)
        await trio.sleep(0.0105)
        await line.queue("answer", line.fair.sending)
        await line.queue("newcomer", line.fair.accepting)
        await trio.sleep(1)
        when = dict(line.had)
        assert {when["answer"], when["newcomer"]} == {11, 12}
        assert max(when.values()) == 101


async def test_a_client_that_gives_up_is_passed_over(clock: MockClock) -> None:
    async with turns() as line:
        await line.queue("a", line.fair.receiving)
        with trio.move_on_after(REST / 2):
            await line.fair.wait_turn("b", line.fair.receiving)
        await line.queue("c", line.fair.receiving)
        await trio.sleep(1)
        assert line.had == [("a", 0), ("c", 1)]


async def test_after_the_end_nobody_has_to_wait(clock: MockClock) -> None:
    fair = FairQueue()
    async with trio.open_nursery() as nursery:
        line = Line(fair, nursery)
        async with trio.open_nursery() as giving:
            giving.start_soon(fair.run)
            for number in range(100):
                await line.queue(number, fair.sending)
            await trio.sleep(REST / 2)
            giving.cancel_scope.cancel()
        await line.queue("late", fair.sending)
    assert len(line.had) == 101
    assert {when for _, when in line.had} <= {0, 1}
