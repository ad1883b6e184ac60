# SPDX-License-Identifier: Apache-2.0
"""Who may ask at all, and how much he may send: what stands before the application.

A web page anywhere can make its reader's browser send requests to this machine. It cannot choose
the Host header, unless its own name leads here (DNS rebinding); nor can it leave away or choose the
Origin header of a POST. So both are looked at.

The body is read before the application is asked, within bounds of size and time. After that the
client can tell us nothing but that it is gone.
"""

from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import ProblemError, to_response

__all__ = ["Guard"]

BODY_LIMIT: Final = 16 * 1024  # bytes
BODY_TIMEOUT: Final = 10.0  # seconds

_HEADERS: Final = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class Guard:
    """An ASGI application that lets through to another what it may have.

    Args:
        app: The other one.
        is_host: Whether a Host header means us. None: whoever can connect may call us what he
            likes, as on a Unix socket, which no browser connects to.
    """

    def __init__(self, app: ASGIApp, is_host: Callable[[str], bool] | None = None) -> None:
        self._app = app
        self._is_host = is_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        answer = _with_headers(send)
        try:
            self._check(scope)
            body = await _read_body(receive)
        except ProblemError as problem:
            await _refuse(problem, scope, receive, answer)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), answer)

    def _check(self, scope: Scope) -> None:
        if scope["http_version"] not in ("1.0", "1.1"):
            raise ProblemError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "speak HTTP/1.1 here")
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._is_host is not None and not self._is_host(host):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"{host!r} is not a name of this server: use its IP address, or localhost",
            )
        ours = (None, f"http://{host}", f"https://{host}")
        if scope["method"] not in ("GET", "HEAD") and origin not in ours:
            raise ProblemError(HTTPStatus.FORBIDDEN, f"a page of {origin!r} may not ask for this")


async def _read_body(receive: Receive) -> bytes | None:
    """Read the whole body. None: the client has gone away meanwhile."""
    body = bytearray()
    with trio.move_on_after(BODY_TIMEOUT):
        while len(body) <= BODY_LIMIT:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        if len(body) > BODY_LIMIT:
            detail = f"a body may have {BODY_LIMIT} bytes, not more"
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        return bytes(body)
    raise ProblemError(
        HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {BODY_TIMEOUT:g} seconds"
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that begins with a body that has been read already."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replay() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        first, message = message, None
        return first

    return replay


async def _refuse(problem: ProblemError, scope: Scope, receive: Receive, send: Send) -> None:
    """Tell a client of a problem, while what it still sends is thrown away.

    Hypercorn would wait for ever for somebody to take it.
    """
    response = to_response(problem)
    if scope["http_version"] != "2":  # part of the body may be missing: no request can follow it
        response.headers["connection"] = "close"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_throw_away, receive)
        await response(scope, receive, send)
        nursery.cancel_scope.cancel()


async def _throw_away(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_headers(send: Send) -> Send:
    """A ``send`` that adds the headers that every response has."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
