# SPDX-License-Identifier: Apache-2.0
"""Servers, and an HTTP client that talks ASGI to their applications: no sockets, virtual time.

Unlike other test clients, it sees a response before it is complete, and can disconnect early.
"""

import json
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import trio
from starlette.types import ASGIApp, Message

from nitrohb import Listener, open_listeners, serve_heartbeat
from nitrohb.api.app import create_app
from nitrohb.api.state import ServerState
from tests import support
from tests.support import B7, settled

Headers = dict[str, str]


class Exchange:
    """A request and its response so far.

    Attributes:
        body: The part of the response's body that has arrived.
        is_over: Whether the application has returned.
        pauses: Seconds that the client takes to read a message.
    """

    def __init__(self, app: ASGIApp, method: str, path: str, headers: Headers) -> None:
        path, _, query = path.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"spec_version": "2.1"},  # as Hypercorn has it
            "http_version": headers.pop(":version", "1.1"),
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), text.encode()) for name, text in headers.items()],
        }
        self._app = app
        self._to_app, self._from_client = trio.open_memory_channel[Message](math.inf)
        self._start: Message = {}
        self.body = b""
        self.is_over = False
        self.pauses = 0.0

    async def run(self) -> None:
        await self._app(self._scope, self._from_client.receive, self._receive)
        self.is_over = True

    def send(self, body: bytes, *, more: bool = False) -> None:
        """Send some of the request's body."""
        self._to_app.send_nowait({"type": "http.request", "body": body, "more_body": more})

    def disconnect(self) -> None:
        """Close the connection."""
        self._to_app.send_nowait({"type": "http.disconnect"})

    async def _receive(self, message: Message) -> None:
        await trio.sleep(self.pauses)
        if message["type"] == "http.response.start":
            self._start = dict(message)
        else:
            self.body += message.get("body", b"")

    @property
    def has_begun(self) -> bool:
        return bool(self._start)

    @property
    def status(self) -> int:
        status: int = self._start["status"]
        return status

    @property
    def headers(self) -> Headers:
        return {name.decode(): text.decode() for name, text in self._start["headers"]}

    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self, status: int, *facts: str) -> bool:
        """Whether it is the problem of that status, and names these facts."""
        assert self.headers["content-type"] == "application/problem+json"
        problem = self.json()
        assert (self.status, problem["status"]) == (status, status), problem
        assert (problem["type"], problem["title"]) == ("about:blank", HTTPStatus(status).phrase)
        assert [fact for fact in facts if fact not in problem["detail"]] == [], problem
        return True


class Client:
    """Sends requests to an application."""

    def __init__(self, app: ASGIApp, nursery: trio.Nursery) -> None:
        self._app = app
        self._nursery = nursery

    def begin(
        self, method: str, path: str, body: object = b"", headers: Headers | None = None
    ) -> Exchange:
        """Send a request. With None for a body, the body is sent later."""
        exchange = Exchange(self._app, method, path, {"host": "localhost"} | (headers or {}))
        if body is not None:
            exchange.send(body if isinstance(body, bytes) else json.dumps(body).encode())
        self._nursery.start_soon(exchange.run)
        return exchange

    async def get(self, path: str, headers: Headers | None = None) -> Exchange:
        return await self.whole(self.begin("GET", path, headers=headers))

    async def post(self, path: str, body: object, headers: Headers | None = None) -> Exchange:
        return await self.whole(self.begin("POST", path, body, headers))

    async def whole(self, exchange: Exchange) -> Exchange:
        """Wait for the whole response."""
        while not exchange.is_over:
            await trio.lowlevel.checkpoint()
        return exchange


@asynccontextmanager
async def client_of(app: ASGIApp) -> AsyncGenerator[Client]:
    """A client, whose unfinished requests are cancelled at the end of the block."""
    async with trio.open_nursery() as nursery:
        yield Client(app, nursery)
        nursery.cancel_scope.cancel()


@dataclass
class Running:
    """A server, a client of its application, and what ends the server."""

    client: Client
    state: ServerState
    end: Callable[[], None]


@asynccontextmanager
async def running(*listen: Path | Listener, keep: bool = True) -> AsyncGenerator[Running]:
    """A server that has started, on paths or listeners, and a client of its application."""
    addresses: list[Any] = [f"unix:{it}" if isinstance(it, Path) else it for it in listen]
    listeners: list[Listener] = open_listeners(addresses)
    state = ServerState(listener.address for listener in listeners)
    serve = partial(serve_heartbeat, *listeners, keep=keep, on_event=state.on_event)

    async def run() -> None:
        with scope:
            await serve(task_status=state)

    scope = trio.CancelScope()
    async with client_of(create_app(state)) as client, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await settled()
        yield Running(client, state, scope.cancel)
        scope.cancel()


async def beat(enclave: Path | support.Client) -> None:
    """Send a heartbeat, and see it answered."""
    with support.Client(enclave) if isinstance(enclave, Path) else enclave as client:
        client.send(B7)
        await settled()
        assert client.look() == (B7, True)


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop: in each, trio looks for new heartbeats."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1
