# SPDX-License-Identifier: Apache-2.0
"""The rules for requests: who may send them, what they may contain, and how they are refused.

A web page on any site can make its reader's browser send requests to this machine. It cannot choose
the Host header, unless its own host name resolves to this machine (DNS rebinding). It cannot omit
or choose the Origin header of a POST. So both headers are checked.
"""

import json
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NoReturn, cast

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_LIMIT: Final = 16 * 1024  # bytes
BODY_TIMEOUT: Final = 10.0  # seconds
MAX_TIMEOUT: Final = 3600.0  # seconds that a claim can wait; a client can claim again
MEDIA_TYPE: Final = "application/problem+json"

_CLOSE: Final = {"connection": "close"}
_HEADERS: Final = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class ProblemError(Exception):
    """A request is refused, or fails. The response is a problem document (RFC 9457).

    Attributes:
        status: The HTTP status.
        detail: What is wrong, for people.
        headers: Additional headers of the response.
        more: Additional members of the JSON object.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more or {}


def to_response(problem: ProblemError) -> Response:
    """Return the response that reports a problem."""
    content = {
        "type": "about:blank",  # the status says which problem it is
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
    }
    return Response(
        json.dumps(content | dict(problem.more)),
        problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


class ConcurrencyLimit:
    """Limits how many requests of one kind are in progress at a time.

    Args:
        limit: The greatest number.
        activity: What these requests do, for the message.
    """

    def __init__(self, limit: int, activity: str) -> None:
        self._free = self._limit = limit
        self._activity = activity

    @contextmanager
    def acquire(self) -> Generator[None]:
        """Count a request while the block runs.

        Raises:
            ProblemError: 503: the limit is reached.
        """
        if not self._free:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._limit} clients {self._activity} already",
                headers=_CLOSE,  # an idle connection would keep other clients out
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


@dataclass(frozen=True, slots=True)
class Claim:
    """Which heartbeat a client wants, and how long it waits.

    Attributes:
        cid: The CID of the enclave; None: any.
        address: The listen address of the heartbeat; None: any.
        timeout: Seconds to wait.
        max_age: Greatest age of the heartbeat in seconds.
    """

    cid: int | None = None
    address: str | None = None
    timeout: float = 60.0
    max_age: float = 60.0


def parse_claim(body: bytes) -> Claim:
    """Read the body of ``POST /claims``.

    Raises:
        ProblemError: 400; says what is wrong.
    """
    fields = _parse(body, ("cid", "address", "timeout", "max_age"))
    if "cid" in fields:
        _check("cid", fields["cid"], int, "a number")
    if "address" in fields:
        _check("address", fields["address"], str, "a string")
    for name in fields.keys() & {"timeout", "max_age"}:
        _check_seconds(name, fields[name])
    claim = Claim(**fields)
    if not 0 < claim.timeout <= MAX_TIMEOUT:
        _refuse(f"timeout: expected more than 0 and at most {MAX_TIMEOUT:g} s, got {claim.timeout}")
    return claim


def parse_rearm(body: bytes) -> str | None:
    """Read the body of ``POST /rearm``: an address, or None for all addresses.

    Raises:
        ProblemError: 400; says what is wrong.
    """
    fields = _parse(body, ("address",))
    if "address" not in fields:
        return None
    _check("address", fields["address"], str, "a string")
    address: str = fields["address"]
    return address


def _parse(body: bytes, known: Iterable[str]) -> dict[str, Any]:
    """Read a JSON object strictly."""
    try:
        fields: Any = json.loads(
            body.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        _refuse(f"the body is not JSON: {error}")
    if not isinstance(fields, dict):
        _refuse("the body is not a JSON object")
    named = cast("dict[str, Any]", fields)
    if unknown := sorted(named.keys() - {*known}):
        _refuse(f"unknown field {unknown[0]!r}: expected {', '.join(known)}")
    return named


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("it has the same field twice")
    return fields


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON does not have {constant}")


def _check(name: str, value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):  # bool is a subclass of int
        _refuse(f"{name}: expected {what}, got {_abbreviate(value)}")


def _check_seconds(name: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(_to_float(value)):
        _refuse(f"{name}: expected seconds, got {_abbreviate(value)}")


def _to_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _abbreviate(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _refuse(detail: str) -> NoReturn:
    raise ProblemError(HTTPStatus.BAD_REQUEST, detail) from None


class RequestGuard:
    """An ASGI application that passes only acceptable requests on to another application.

    It reads the whole body first, within limits of size and time. After that the only message that
    a client can send is that it has disconnected.

    Args:
        app: The other application.
        is_host: Whether a Host header names this server. None: accept any Host header, as on a Unix
            socket, which no browser connects to.
    """

    def __init__(self, app: ASGIApp, is_host: Callable[[str], bool] | None = None) -> None:
        self._app = app
        self._is_host = is_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        send = _with_headers(send)
        try:
            self._check(scope)
            body = await _read_body(receive)
        except ProblemError as problem:
            response = to_response(problem)
            if scope["http_version"] != "2":
                response.headers.update(_CLOSE)  # no request can follow a body that was not read
            await response(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope) -> None:
        if scope["http_version"] not in ("1.0", "1.1"):
            raise ProblemError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this server needs HTTP/1.1")
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._is_host is not None and not self._is_host(host):
            raise ProblemError(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"{host!r} is not a name of this server: use its IP address, or localhost",
            )
        allowed = (None, f"http://{host}", f"https://{host}")
        if scope["method"] not in ("GET", "HEAD") and origin not in allowed:
            raise ProblemError(HTTPStatus.FORBIDDEN, f"pages of {origin!r} may not send this")


async def _read_body(receive: Receive) -> bytes | None:
    """Read the whole body. None: the client has disconnected."""
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
            detail = f"the body has more than {BODY_LIMIT} bytes"
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)
        return bytes(body)
    detail = f"the body did not arrive within {BODY_TIMEOUT:g} seconds"
    raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that begins with a body that was read already."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replay() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        first, message = message, None
        return first

    return replay


def _with_headers(send: Send) -> Send:
    """Return a ``send`` that adds the headers that every response has."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
