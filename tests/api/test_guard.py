# SPDX-License-Identifier: Apache-2.0
"""Who may ask at all, and how much he may send."""

import pytest
import trio
from starlette.types import ASGIApp, Message
from trio.testing import MockClock

from nitrohb.api.app import create_app
from nitrohb.api.backend import Backend
from tests.support import settled

from .asgi import client_of


def app(*hosts: str) -> ASGIApp:
    return create_app(Backend([]), is_host=hosts.__contains__ if hosts else None)


@pytest.mark.parametrize(("host", "status"), [("here", 200), ("elsewhere", 421), ("", 421)])
async def test_a_host_header_that_does_not_mean_us(host: str, status: int) -> None:
    async with client_of(app("here")) as client:
        answer = await client.get("/healthz", {"host": host})
        assert answer.status == status
        if status == 421:
            assert answer.is_problem(421, f"{host!r} is not a name of this server")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 400),
        ("http://localhost", 400),
        ("https://localhost", 400),
        ("http://localhost:81", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_a_page_elsewhere_that_posts(origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"origin": origin}
    async with client_of(app()) as client:
        answer = await client.post("/claims", b"nonsense", headers)
        assert answer.is_problem(status, "")
        assert (await client.get("/healthz", headers)).status == 200


async def test_http_2_is_not_spoken() -> None:
    async with client_of(app()) as client:
        answer = await client.get("/healthz", {":version": "2"})
        assert answer.is_problem(505, "HTTP/1.1")


async def test_websockets_are_not_spoken() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(dict(message))

    async def receive() -> Message:
        raise AssertionError("nothing to be received")

    await app()({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize(("size", "status"), [(16384, 400), (16385, 413)])
async def test_a_body_has_a_limit(size: int, status: int) -> None:
    async with client_of(app()) as client:
        answer = client.begin("POST", "/claims", None)
        for _ in range(16):
            answer.send(bytes(1024), more=True)
        answer.send(bytes(size - 16384))
        await client.whole(answer)
        assert answer.is_problem(status, "16384 bytes" if status == 413 else "")


async def test_what_comes_after_a_refusal_is_thrown_away() -> None:
    async with client_of(app()) as client:
        answer = client.begin("POST", "/claims", None)
        answer.reads = False
        for _ in range(20):
            answer.send(bytes(1024), more=True)
        await settled()
        assert answer.unread == 0
        answer.go_away()
        await settled()
        assert answer.unread == 0


async def test_a_body_that_does_not_come(autojump_clock: MockClock) -> None:
    async with client_of(app()) as client:
        answer = client.begin("POST", "/claims", None)
        answer.send(b"{", more=True)
        await trio.sleep(9.9)
        assert not answer.has_begun
        await trio.sleep(0.2)
        assert answer.is_problem(408, "within 10 seconds")


async def test_who_goes_away_in_the_middle_of_a_body() -> None:
    async with client_of(app()) as client:
        answer = client.begin("POST", "/claims", None)
        answer.send(b"{", more=True)
        answer.go_away()
        await settled()
        assert (answer.is_over, answer.has_begun) == (True, False)
