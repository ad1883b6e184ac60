# SPDX-License-Identifier: Apache-2.0
"""Which requests are let through, and how large they may be."""

from starlette.types import ASGIApp, Message
from trio import sleep
from trio.testing import MockClock

from nitrohb.api.app import create_app
from nitrohb.api.backend import Backend
from tests.support import settled

from .asgi import client_of


def app(*hosts: str) -> ASGIApp:
    return create_app(Backend([]), is_host=hosts.__contains__ if hosts else None)


async def test_a_foreign_host_header_is_refused() -> None:
    async with client_of(app("here")) as client:
        assert (await client.get("/healthz", {"host": "here"})).status == 200
        for host in ("elsewhere", ""):
            assert (await client.get("/healthz", {"host": host})).is_problem(421, repr(host))


async def test_a_post_from_a_foreign_page_is_refused() -> None:
    async with client_of(app()) as client:
        for origin, status in (
            (None, 400),
            ("http://localhost", 400),
            ("https://localhost", 400),
            ("http://localhost:81", 403),
            ("http://evil.example", 403),
            ("null", 403),
            ("", 403),
        ):
            headers = {} if origin is None else {"origin": origin}
            answer = await client.post("/claims", b"nonsense", headers)
            assert answer.is_problem(status), origin
            # Its body may still be on its way: the next request needs another connection.
            assert ("connection" in answer.headers) == (status == 403)
            assert (await client.get("/healthz", headers)).status == 200


async def test_http_2_is_refused() -> None:
    async with client_of(app()) as client:
        answer = await client.get("/healthz", {":version": "2"})
        assert answer.is_problem(505, "HTTP/1.1")


async def test_websockets_are_refused() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(dict(message))

    async def receive() -> Message:
        raise AssertionError("nothing to be received")

    await app()({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close"}]


async def test_a_body_has_a_limit() -> None:
    async with client_of(app()) as client:
        for size, status in ((16384, 400), (16385, 413)):
            answer = client.begin("POST", "/claims", None)
            for _ in range(16):
                answer.send(bytes(1024), more=True)
            answer.send(bytes(size - 16384))
            await client.whole(answer)
            assert answer.is_problem(status, "16384" if status == 413 else "")


async def test_what_comes_after_a_refusal_is_discarded() -> None:
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
        await sleep(9.9)
        assert not answer.has_begun
        await sleep(0.2)
        assert answer.is_problem(408, "10 seconds")


async def test_a_client_that_goes_away_in_the_middle_of_a_body() -> None:
    async with client_of(app()) as client:
        answer = client.begin("POST", "/claims", None)
        answer.send(b"{", more=True)
        answer.go_away()
        await settled()
        assert (answer.is_over, answer.has_begun) == (True, False)
