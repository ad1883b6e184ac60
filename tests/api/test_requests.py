# SPDX-License-Identifier: Apache-2.0
"""Which requests are let through, how large they can be, and how their bodies are read."""

import pytest
from starlette.types import ASGIApp, Message
from trio import sleep
from trio.testing import MockClock

from nitrohb.api.app import create_app
from nitrohb.api.requests import Claim, ProblemError, parse_claim, parse_rearm
from nitrohb.api.state import ServerState
from tests.support import settled

from .support import client_of


def app(*hosts: str) -> ASGIApp:
    return create_app(ServerState([]), is_host=hosts.__contains__ if hosts else None)


async def test_a_foreign_host_header_is_refused() -> None:
    async with client_of(app("here")) as client:
        assert (await client.get("/healthz", {"host": "here"})).status == 200
        for host in ("elsewhere", ""):
            assert (await client.get("/healthz", {"host": host})).is_problem(421, repr(host))


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        *((host, True) for host in ("", "localhost:9180", "d", "127.0.0.1:80", "[::1]", "[::1]:1")),
        *(
            (host, False)
            for host in (
                "evil.example",
                "evil.example:80",
                "127.0.0.1.evil:80",
                ".",
                "d:evil.example",
            )
        ),
    ],
)
async def test_behind_a_tunnel_to_a_unix_socket_a_name_in_dns_is_refused(
    host: str, is_local: bool
) -> None:
    """A page of such a name could reach the interface by DNS rebinding."""
    async with client_of(app()) as client:
        answer = await client.get("/healthz", {"host": host})
        assert answer.status == 200 if is_local else answer.is_problem(421, repr(host))


@pytest.mark.parametrize(("method", "passes"), [("POST", 400), ("GET", 405), ("DELETE", 405)])
async def test_a_request_of_a_foreign_page_is_refused(method: str, passes: int) -> None:
    async with client_of(app()) as client:
        for headers, is_foreign in (
            ({}, False),
            ({"origin": "http://localhost"}, False),
            ({"origin": "https://localhost"}, False),
            ({"origin": "http://localhost:81"}, True),
            ({"origin": "http://evil.example"}, True),
            ({"origin": "null"}, True),
            ({"origin": ""}, True),
            ({"sec-fetch-site": "same-origin"}, False),
            ({"sec-fetch-site": "none"}, False),
            ({"sec-fetch-site": "same-site"}, True),  # another port of this machine
            ({"sec-fetch-site": "cross-site"}, True),
            ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "iframe"}, True),
            ({"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"}, method != "GET"),
            ({"sec-fetch-site": "same-origin", "origin": "http://evil.example"}, True),
        ):
            answer = await client.whole(client.begin(method, "/claims", b"nonsense", {**headers}))
            assert answer.is_problem(403 if is_foreign else passes), headers
            # Its body may still be on its way: the next request needs another connection.
            assert ("connection" in answer.headers) == is_foreign


async def test_a_foreign_page_takes_no_place_among_the_readers_of_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nitrohb.api.requests.MAX_CONNECTIONS", 4)  # one of them reads events
    async with client_of(app()) as client:
        foreign = client.begin("GET", "/events", headers={"origin": "http://evil.example"})
        await settled()
        own = client.begin("GET", "/events")
        await settled()
        assert (foreign.status, own.status) == (403, 200)
        own.disconnect()


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


async def test_a_body_that_does_not_come(clock: MockClock) -> None:
    async with client_of(app()) as client:
        answer = client.begin("POST", "/claims", None)
        answer.send(b"{", more=True)
        await sleep(9.9)
        assert not answer.has_begun
        await sleep(0.2)
        assert answer.is_problem(408, "10 s")


async def test_a_client_that_disconnects_in_the_middle_of_a_body() -> None:
    async with client_of(app()) as client:
        answer = client.begin("POST", "/claims", None)
        answer.send(b"{", more=True)
        answer.disconnect()
        await settled()
        assert (answer.is_over, answer.has_begun) == (True, False)


@pytest.mark.parametrize(
    ("body", "facts"),
    [
        (b"", ("JSON",)),
        (b"\xff", ("JSON",)),
        (b"{", ("JSON",)),
        (b"[" * 16000, ("JSON",)),
        (b'{"cid": ' + b"9" * 5000 + b"}", ("JSON",)),
        (b'{"timeout": NaN}', ("timeout", "NaN")),
        (b'{"max_age": Infinity}', ("max_age", "Infinity")),
        (b'{"cid": 1, "cid": 2}', ("twice",)),
        (b"[]", ("JSON object",)),
        (b'{"cidd": 1}', ("'cidd'", "cid, address, timeout, max_age")),
        (b'{"cid": "16"}', ("cid", '"16"')),
        (b'{"cid": true}', ("cid", "true")),
        (b'{"cid": null}', ("cid", "null")),
        (b'{"cid": 1.5}', ("cid", "1.5")),
        (b'{"address": 3}', ("address", "3")),
        (b'{"address": ["' + b"x" * 200 + b'"]}', ("address", '["xxx', "...")),
        (b'{"timeout": "60"}', ("timeout", '"60"')),
        (b'{"timeout": false}', ("timeout", "false")),
        (b'{"timeout": 0}', ("timeout", "3600 s", "got 0")),
        (b'{"timeout": 3600.1}', ("timeout", "3600 s", "3600.1")),
        (b'{"timeout": 1e999}', ("timeout", "Infinity")),
        (b'{"timeout": 1' + b"0" * 400 + b"}", ("timeout", "1000")),
    ],
)
def test_a_claim_is_read_strictly(body: bytes, facts: tuple[str, ...]) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_claim(body)
    assert caught.value.status == 400
    assert [fact for fact in facts if fact not in caught.value.detail] == []


def test_what_a_body_says() -> None:
    assert parse_claim(b"{}") == Claim(None, None, 60.0, 60.0)
    body = b'{"cid": 16, "address": "x", "timeout": 3600, "max_age": 0.5}'
    assert parse_claim(body) == Claim(16, "x", 3600, 0.5)
    assert parse_rearm(b"{}") is None
    assert parse_rearm(b'{"address": "x"}') == "x"
