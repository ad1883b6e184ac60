# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: every endpoint and its responses. It opens no sockets.

The page at ``GET /`` is one file that loads nothing. Its Content-Security-Policy allows only the
hashes of its script and its style, so the browser does not run text from a peer or a path.
"""

import base64
import hashlib
import json
import logging
import os
import random
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from typing import Final
from urllib.parse import unquote_to_bytes

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive

from ..errors import (
    AddressError,
    HeartbeatTimeoutError,
    ListenError,
    NoHeartbeatError,
    UsageError,
)
from ..events import utc_now
from ..handle import HeartbeatServer
from ..remedies import CID_ADVICE
from .address import is_local
from .requests import (
    Claim,
    ProblemError,
    RequestGuard,
    limited,
    max_connections,
    parse_claim,
    parse_listen,
    parse_rearm,
)
from .schema import create_document
from .state import ServerState
from .streaming import EventStream

BATCH: Final = 16  # heartbeats that one pass of the event loop serializes, in 0.1 ms
JITTER: Final = 0.2  # seconds: claims that time out together are answered at random within them

_LOCAL: Final = "Use localhost or an IP address"
_PAGE: Final = resources.files("nitrohb.api").joinpath("page.html").read_text("utf-8")

_log: Final = logging.getLogger(__name__)


def _hash(tag: str) -> str:
    """Return the hash of what a tag contains, as Content-Security-Policy expects it."""
    content = _PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


_PAGE_HEADERS: Final = {
    "content-security-policy": (
        f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')};"
        " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}


def create_app(state: ServerState, *, is_host: Callable[[str], bool] | None = None) -> ASGIApp:
    """Return the application.

    Args:
        state: What is known about the heartbeat server.
        is_host: Whether a Host header names this server; see ``RequestGuard``. None means a Unix
            socket. Only its clients may add and remove addresses, because its file has permissions.
    """
    endpoints = _Endpoints(state, may_listen=is_host is None)
    handlers = {ProblemError: _on_problem, HTTPException: _on_http_error, Exception: _on_bug}
    app = Starlette(
        routes=[
            Route("/heartbeats", endpoints.heartbeats),
            Route("/heartbeats/{cid}", endpoints.heartbeats_of),
            Route("/claims", endpoints.claims, methods=["POST"]),
            Route("/listeners", endpoints.listen, methods=["POST"]),
            Route("/listeners/{address:path}", endpoints.unlisten, methods=["DELETE"]),
            Route("/rearm", endpoints.rearm, methods=["POST"]),
            Route("/healthz", PlainTextResponse("ok"), methods=["GET"]),
            Route("/readyz", endpoints.readyz),
            Route("/metrics", endpoints.metrics),
            Route("/events", endpoints.events),
            Route("/openapi.json", endpoints.describe),
            Route("/", HTMLResponse(_PAGE, headers=_PAGE_HEADERS), methods=["GET"]),
        ],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False  # one URL per resource
    if is_host is None:  # a browser can reach a Unix socket through a tunnel
        return RequestGuard(app, is_local, f"{_LOCAL}.")
    return RequestGuard(app, is_host, f"{_LOCAL}, or start the server with --api-host NAME.")


class _Endpoints:
    """The endpoints that need the server."""

    def __init__(self, state: ServerState, *, may_listen: bool) -> None:
        self._state = state
        self._may_listen = may_listen
        self._readers: list[object] = []

    async def heartbeats(self, _: Request) -> Response:
        texts: list[str] = []
        for beat in self._state.last_heartbeats():
            texts.append(json.dumps(beat.to_json()))
            if len(texts) % BATCH == 0:
                await trio.lowlevel.checkpoint()
        return Response(f"[{', '.join(texts)}]", media_type="application/json")

    async def heartbeats_of(self, request: Request) -> Response:
        cid = request.path_params["cid"]
        last = self._state.last_heartbeats()
        beats = [it.to_json() for it in last if it.cid is not None and str(it.cid) == cid]
        if not beats:
            detail = f"no heartbeat has come from CID {cid}\nWait for one with POST /claims."
            raise ProblemError(HTTPStatus.NOT_FOUND, detail)
        return _json(beats)

    async def claims(self, request: Request) -> Response:
        claim = parse_claim(await request.body())
        server = self._server()
        response = Response()  # for a client that disconnects
        with limited(
            self._state.waiting_claims, claim, max_connections() // 2, "wait for heartbeats"
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_on_disconnect, request.receive, nursery.cancel_scope)
                response = await _claim(server, claim, self._state)
                nursery.cancel_scope.cancel()
        return response

    async def rearm(self, request: Request) -> Response:
        address = parse_rearm(await request.body())
        try:
            self._server().rearm(address)
        except UsageError as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, str(error)) from None
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def listen(self, request: Request) -> Response:
        server = self._changeable_server()
        address = parse_listen(await request.body())
        try:
            server.listen(address)
        except AddressError as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, str(error)) from None
        except (UsageError, ListenError) as error:
            raise ProblemError(HTTPStatus.CONFLICT, str(error)) from None
        return _json({"address": str(address), "listening": True}, HTTPStatus.CREATED)

    async def unlisten(self, request: Request) -> Response:
        server = self._changeable_server()
        # Starlette would replace bytes that are not UTF-8.
        path = os.fsdecode(unquote_to_bytes(request.scope["raw_path"]))
        try:
            server.unlisten(path.removeprefix("/listeners/"))
        except UsageError as error:
            raise ProblemError(HTTPStatus.NOT_FOUND, str(error)) from None
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def readyz(self, _: Request) -> Response:
        listening = self._state.listening
        listeners = [{"address": str(it), "listening": listening[it]} for it in listening]
        if self._state.server is None or not all(listening.values()):
            detail = "not every address listens\nLook at the events of the server."
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, listeners=listeners)
        return _json({"listeners": listeners})

    async def events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        texts = self._state.log.follow(request.headers.get("last-event-id", ""))
        # Claims get half of the connections, readers a quarter, and short requests the rest.
        limit = max_connections() // 4
        return EventStream(texts, limited(self._readers, request, limit, "read events"))

    async def metrics(self, _: Request) -> Response:
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self._state.metrics.write(), media_type=media_type)

    async def describe(self, _: Request) -> Response:
        return _json(create_document(self._state.listening, may_listen=self._may_listen))

    def _changeable_server(self) -> HeartbeatServer:
        if not self._may_listen:
            detail = (
                "cannot change the addresses of the server over TCP: every user of the machine can"
                " connect\nStart the server with --api unix:PATH."
            )
            raise ProblemError(HTTPStatus.FORBIDDEN, detail)
        return self._server()

    def _server(self) -> HeartbeatServer:
        if self._state.server is None:
            detail = "the server has not started yet\nTry again."
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail)
        return self._state.server


async def _claim(server: HeartbeatServer, claim: Claim, state: ServerState) -> Response:
    """Return a response with a heartbeat, or with the reason why there is none."""
    asked, began = utc_now(), trio.current_time()
    try:
        beat = await server.wait_heartbeat(
            cid=claim.cid, address=claim.address, max_age=claim.max_age, timeout=claim.timeout
        )
    except UsageError as error:
        return ProblemError(HTTPStatus.BAD_REQUEST, str(error)).to_response()
    except NoHeartbeatError as error:
        # Clients try again after 503.
        status = HTTPStatus.GONE if error.unlistened else HTTPStatus.SERVICE_UNAVAILABLE
        return ProblemError(status, str(error)).to_response()
    except HeartbeatTimeoutError as error:
        state.metrics.timeouts.inc()
        detail = str(error)
        if state.might_have_come_over_loopback(claim, began - claim.max_age):
            reason, _, _ = detail.partition("\n")
            detail = f"{reason}; {CID_ADVICE}"
        await trio.sleep(random.uniform(0, JITTER))
        return ProblemError(HTTPStatus.GATEWAY_TIMEOUT, detail).to_response()
    if beat.time >= asked:
        state.metrics.wait.observe(trio.current_time() - began)
    return _json(beat.to_json())


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    message = await receive()  # RequestGuard has read the body
    assert message["type"] == "http.disconnect"
    scope.cancel()


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    # ASCII, because a path that is not UTF-8 has lone surrogates (PEP 383).
    return Response(json.dumps(value), status, media_type="application/json")


async def _on_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, ProblemError)
    return problem.to_response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Report an error that Starlette raises: 404 or 405."""
    assert isinstance(error, HTTPException)
    detail = f"{request.method} {request.url.path}: {error.detail}\nLook at /openapi.json."
    return ProblemError(HTTPStatus(error.status_code), detail, error.headers).to_response()


async def _on_bug(request: Request, error: Exception) -> Response:
    _log.error("nitrohb: cannot answer %s %s", request.method, request.url.path, exc_info=error)
    detail = "nitrohb has a bug\nPlease report it, with the traceback on stderr of the server."
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail).to_response()
