# SPDX-License-Identifier: Apache-2.0
"""The ASGI application: what is answered to whom. It has no socket and no clock of its own."""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..addresses import CID_ANY, Address, parse_number
from ..errors import AddressError, ServerEndedError, UsageError
from ..events import format_time, utc_now
from ..remedies import SAME_CIDS
from ..server import HeartbeatServer
from .backend import Backend
from .guard import Guard
from .inputs import Claim, parse_claim, parse_rearm
from .openapi import create_document
from .page import HEADERS, PAGE
from .places import CLAIMS, READERS, Places
from .problems import ProblemError, to_response
from .stream import EventStream

if TYPE_CHECKING:
    from ..events import Heartbeat

__all__ = ["create_app"]

AT_A_TIME: Final = 16  # heartbeats that are written down in one pass of the loop: 0.1 ms
SPREAD: Final = 0.2  # seconds over which those wake up who give up waiting at the same moment

_log: Final = logging.getLogger(__name__)


def create_app(backend: Backend, *, is_host: Callable[[str], bool] | None = None) -> ASGIApp:
    """The application.

    Args:
        backend: The server that it is about.
        is_host: Whether a Host header means us; see :class:`Guard`.
    """
    endpoints = _Endpoints(backend)
    app = Starlette(
        routes=[
            Route("/heartbeats", endpoints.heartbeats),
            Route("/heartbeats/{cid}", endpoints.heartbeats_of),
            Route("/claims", endpoints.claims, methods=["POST"]),
            Route("/rearm", endpoints.rearm, methods=["POST"]),
            Route("/healthz", _healthz),
            Route("/readyz", endpoints.readyz),
            Route("/metrics", endpoints.metrics),
            Route("/events", endpoints.events),
            Route("/openapi.json", endpoints.describe),
            Route("/", _page),
        ],
        exception_handlers={
            ProblemError: _on_problem,
            HTTPException: _on_http_exception,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False  # each thing has one name
    return Guard(app, is_host)


class _Endpoints:
    """What is about the server."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._readers = Places(READERS, "read events")
        self._claims = Places(CLAIMS, "wait for heartbeats")

    async def heartbeats(self, _: Request) -> Response:
        texts: list[str] = []
        for beat in self._backend.last_heartbeats():
            texts.append(json.dumps(beat.to_json()))
            if len(texts) % AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        return Response(f"[{', '.join(texts)}]", media_type="application/json")

    async def heartbeats_of(self, request: Request) -> Response:
        cid = _parse_cid(request.path_params["cid"])
        beats = [beat.to_json() for beat in self._backend.last_heartbeats() if beat.cid == cid]
        if not beats:
            raise ProblemError(HTTPStatus.NOT_FOUND, f"no heartbeat of CID {cid} has been seen")
        return _json(beats)

    async def claims(self, request: Request) -> Response:
        """Wait for a heartbeat, and claim it, unless the client goes away before."""
        claim = parse_claim(await request.body())
        server = self._server()
        response: Response = _Nothing()
        with self._claims.take():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_gone, request.receive, nursery.cancel_scope)
                response = await _claim(server, claim, self._backend)
                nursery.cancel_scope.cancel()
        return response

    async def rearm(self, request: Request) -> Response:
        address = parse_rearm(await request.body())
        try:
            self._server().rearm(address)
        except UsageError as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, str(error)) from None
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def readyz(self, _: Request) -> Response:
        listeners = [
            {"address": str(address), "listening": listening}
            for address, listening in self._backend.listeners()
        ]
        if not self._backend.is_ready:
            detail = "not every address listens"
            more = {"listeners": listeners}
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, more=more)
        return _json({"listeners": listeners})

    async def events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        last_seen = request.headers.get("last-event-id", "")
        return EventStream(self._backend.feed, last_seen, self._readers)

    async def metrics(self, _: Request) -> Response:
        media_type = "text/plain; version=0.0.4; charset=utf-8"
        return Response(self._backend.metrics.write(), media_type=media_type)

    async def describe(self, _: Request) -> Response:
        return _json(create_document(address for address, _ in self._backend.listeners()))

    def _server(self) -> HeartbeatServer:
        if self._backend.server is None:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "the server has not started yet")
        return self._backend.server


async def _claim(server: HeartbeatServer, claim: Claim, backend: Backend) -> Response:
    beat: Heartbeat | None = None
    before = backend.metrics.failures.copy()
    asked, began = utc_now(), trio.current_time()
    with (
        trio.move_on_after(claim.timeout + random.uniform(0, SPREAD)),
        backend.waiting(claim),
    ):
        try:
            beat = await server.wait_heartbeat(
                cid=claim.cid, address=claim.address, max_age=claim.max_age
            )
        except UsageError as error:
            return to_response(ProblemError(HTTPStatus.BAD_REQUEST, str(error)))
        except ServerEndedError as error:
            return to_response(ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))
    if beat is None:
        backend.metrics.count_claim_in_vain()
        problem = _in_vain(server, claim, backend.metrics.failures - before)
        if backend.may_be_meant(claim, began - claim.max_age):
            problem.detail += f"; {SAME_CIDS}"
        return to_response(problem)
    if beat.time >= asked:
        backend.metrics.observe_boot(trio.current_time() - began)
    return _json(beat.to_json())


def _in_vain(
    server: HeartbeatServer, claim: Claim, failures: Counter[tuple[Address, str]]
) -> ProblemError:
    """Tell whose claim had no success what has come instead, and what had come before."""
    instead = Counter[str]()
    for (address, what), count in failures.items():
        if claim.address in (None, str(address)):
            instead[what] += count
    last = [
        format_time(beat.time)
        for beat in server.last_heartbeats()
        if claim.cid in (None, beat.cid) and claim.address in (None, str(beat.address))
    ]
    sender = "" if claim.cid is None else f" of CID {claim.cid}"
    where = "" if claim.address is None else f" on {claim.address}"
    detail = f"no heartbeat{sender}{where} came within {claim.timeout:g} s"
    if instead:
        came = ", ".join(f"{count} {what}" for what, count in sorted(instead.items()))
        detail += f"; connections there meanwhile that brought none: {came}"
    if last:
        old = f"more than {claim.max_age:g} s old"
        detail += f"; the last one, of {last[-1]}, is claimed already or {old}"
    return ProblemError(HTTPStatus.GATEWAY_TIMEOUT, detail)


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    message = await receive()  # the guard has taken all else
    assert message["type"] == "http.disconnect"
    scope.cancel()


class _Nothing(Response):
    """The answer to a client that has gone away."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""


async def _page(_: Request) -> Response:
    return HTMLResponse(PAGE, headers=HEADERS)


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok")


def _parse_cid(text: str) -> int:
    try:
        return parse_number("CID", text, CID_ANY - 1)
    except AddressError as error:
        raise ProblemError(HTTPStatus.NOT_FOUND, str(error)) from None


def _json(value: object) -> Response:
    # In ASCII: a path may have bytes that are no UTF-8, which Python has as lone surrogates.
    return Response(json.dumps(value), media_type="application/json")


async def _on_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, ProblemError)
    return to_response(problem)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Whatever Starlette itself has to say: 404, 405."""
    assert isinstance(error, HTTPException)
    detail = {
        HTTPStatus.NOT_FOUND: "there is no such thing here",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not for {request.url.path}",
    }.get(HTTPStatus(error.status_code), error.detail)
    return to_response(ProblemError(HTTPStatus(error.status_code), detail, headers=error.headers))


async def _on_bug(request: Request, error: Exception) -> Response:
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    detail = "a bug in nitrohb; its log, on stderr, says more"
    return to_response(ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail))
