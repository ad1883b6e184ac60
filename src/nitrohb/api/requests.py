# SPDX-License-Identifier: Apache-2.0
"""Checks of requests: who may send them, what they may contain, and the errors.

A web page on any site can make a browser send requests to this machine. The page cannot choose the
Host header, unless its own host name resolves to this machine (DNS rebinding). It cannot omit or
choose the Origin header of a POST or of an EventSource, nor Sec-Fetch-Site. So these headers are
checked. A link from another site to this interface still works.
"""

import json
import resource
import sys
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeVar, cast

import trio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..addresses import Address, InheritedSocket, NamedDescriptor, VsockAddress, parse_address
from ..errors import AddressError

T = TypeVar("T")

MAX_CONNECTIONS: Final = 256
RESERVED: Final = 64  # descriptors that clients never get; they get at most half of the others
HEAD_LIMIT: Final = 4096  # bytes; h11 needs up to 1 ms, in one step, for that many
BODY_LIMIT: Final = 16 * 1024  # bytes
BODY_TIMEOUT: Final = 10.0  # seconds
MAX_TIMEOUT: Final = 3600.0  # seconds that one claim can wait
MEDIA_TYPE: Final = "application/problem+json"

_CLOSE: Final = {"connection": "close"}
_HEADERS: Final = {
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_HTTP_2: Final = "HTTP/2 is not supported\nUse HTTP/1.1."
_OWN_PAGE: Final = "Use a page of this server, or a client that is not a browser."
_NUMBERS: Final = (int, float)  # not bool; an int can be too large for a float

# The fields of all bodies: the expected value in words, and a test for it.
_FIELDS: Final[dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "cid": ("a number", lambda value: type(value) is int),
    "address": ("a string", lambda value: type(value) is str),
    "timeout": (
        f"more than 0 and at most {MAX_TIMEOUT:g} s",
        lambda value: type(value) in _NUMBERS and 0 < value <= MAX_TIMEOUT,
    ),
    "max_age": (
        "a finite number, at least 0 s",
        lambda value: type(value) in _NUMBERS and 0 <= value <= sys.float_info.max,
    ),
}


class ProblemError(Exception):
    """A request was rejected, or failed. The response is a problem document (RFC 9457).

    Args:
        status: The HTTP status (also an attribute).
        detail: What is wrong, in words (also an attribute).
        headers: Additional headers of the response.
        more: Additional members of the JSON object.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self._headers = headers
        self._more = more

    def to_response(self) -> Response:
        """Return the response that reports it."""
        content = {
            "type": "about:blank",  # the status says which problem it is
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
        }
        text = json.dumps(content | self._more)
        return Response(text, self.status, self._headers, MEDIA_TYPE)


def max_connections() -> int:
    """Return the limit of connections, which leaves enough descriptors to enclaves."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, (limit - RESERVED) // 2))


@contextmanager
def limited(requests: list[T], request: T, limit: int, activity: str) -> Generator[None]:
    """Keep a request in a list of active requests while the block runs.

    Raises:
        ProblemError: 503 if the list has reached the limit.
    """
    if len(requests) >= limit:
        # Close the connection, because an idle one would keep other clients out.
        detail = f"{limit} clients already {activity}, the maximum\nTry again later."
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, _CLOSE)
    requests.append(request)
    try:
        yield
    finally:
        requests.remove(request)


@dataclass(frozen=True, slots=True)
class Claim:
    """Which heartbeat a client wants, and how long it waits.

    Attributes:
        cid: The CID of the enclave; None: any.
        address: The listen address of the heartbeat; None: any.
        timeout: Seconds to wait.
        max_age: Maximum age of the heartbeat in seconds.
    """

    cid: int | None = None
    address: str | None = None
    timeout: float = 60.0
    max_age: float = 60.0


def parse_claim(body: bytes) -> Claim:
    """Return the claim in the body of ``POST /claims``.

    Raises:
        ProblemError: 400 if the body is wrong.
    """
    return Claim(**_parse(body, _FIELDS.keys()))


def parse_rearm(body: bytes) -> str | None:
    """Return the address in the body of ``POST /rearm``, or None for all addresses.

    Raises:
        ProblemError: 400 if the body is wrong.
    """
    return _parse(body, ["address"]).get("address")


def parse_listen(body: bytes) -> Address:
    """Return the address in the body of ``POST /listeners``. A path must be absolute.

    Raises:
        ProblemError: 400 if the body is wrong.
    """
    try:
        address = parse_address(_parse(body, ["address"])["address"])
    except KeyError:
        _refuse("the field address is missing\nAdd it.")
    except AddressError as error:
        _refuse(str(error))
    if isinstance(address, InheritedSocket | NamedDescriptor):
        _refuse(
            f"cannot listen on {address}: it means a descriptor, and the server has its own\n"
            "Name a vsock port or the path of a socket."
        )
    if not isinstance(address, VsockAddress) and not address.path.startswith("/"):
        _refuse(f"cannot listen on {address}: the path is relative\nWrite the absolute path.")
    return address


def _parse(body: bytes, known: Collection[str]) -> dict[str, Any]:
    """Return a JSON object that has only known fields, each once and with a correct value."""
    try:
        fields: Any = json.loads(body.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        _refuse(f"cannot read the body as JSON: {error}")
    if not isinstance(fields, dict):
        _refuse("the body is not a JSON object\nSend an object, such as {}.")
    named = cast("dict[str, Any]", fields)
    for name, value in named.items():
        if name not in known:
            _refuse(f"unknown field {name!r}\nUse only {', '.join(known)}.")
        expected, is_expected = _FIELDS[name]
        if not is_expected(value):
            text = json.dumps(value)
            got = text if len(text) <= 100 else f"{text[:100]}..."
            _refuse(f"{name}: expected {expected}, got {got}")
    return named


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("it has the same field twice")
    return fields


def _refuse(detail: str) -> NoReturn:
    raise ProblemError(HTTPStatus.BAD_REQUEST, detail) from None


class RequestGuard:
    """An ASGI application that checks requests for another application.

    It reads the whole body first, within limits of size and time. The other application receives
    the body as one message, and after that only the disconnection.

    Args:
        app: The other application.
        is_host: Whether a Host header names this server.
        advice: What to do if it does not.
    """

    def __init__(self, app: ASGIApp, is_host: Callable[[str], bool], advice: str) -> None:
        self._app = app
        self._is_host = is_host
        self._advice = advice

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
            response = problem.to_response()
            if scope["http_version"] != "2":
                response.headers.update(_CLOSE)  # the unread body would be taken for a request
            await response(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope) -> None:
        if scope["http_version"] not in ("1.0", "1.1"):
            raise ProblemError(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, _HTTP_2)
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_host(host):
            detail = f"{host!r} is not a name of this server\n{self._advice}"
            raise ProblemError(HTTPStatus.MISDIRECTED_REQUEST, detail)
        site = headers.get("sec-fetch-site", "none")
        is_link = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
        is_own = site in ("none", "same-origin") or is_link
        if origin not in (None, f"http://{host}", f"https://{host}") or not is_own:
            detail = f"a page of another site sent the request ({origin or site!r})\n{_OWN_PAGE}"
            raise ProblemError(HTTPStatus.FORBIDDEN, detail)
        if _head_size(scope) > HEAD_LIMIT:
            detail = f"the request line and the headers have more than {HEAD_LIMIT} bytes"
            raise ProblemError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)
        if "transfer-encoding" in headers and "content-length" in headers:  # RFC 9112, 6.1
            detail = "the request has both Transfer-Encoding and Content-Length"
            raise ProblemError(HTTPStatus.BAD_REQUEST, detail)


def _head_size(scope: Scope) -> int:
    """Return the size of the request line, the headers and the empty line in bytes."""
    target = len(scope["raw_path"]) + len(scope["query_string"]) + bool(scope["query_string"])
    line = len(f"{scope['method']}  HTTP/1.1\r\n\r\n") + target
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


async def _read_body(receive: Receive) -> bytes | None:
    """Return the whole body, or None if the client has disconnected."""
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
    detail = f"the body did not arrive within {BODY_TIMEOUT:g} s"
    raise ProblemError(HTTPStatus.REQUEST_TIMEOUT, detail)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that returns a body first."""
    read: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return read.pop() if read else await receive()

    return replay


def _with_headers(send: Send) -> Send:
    """Return a ``send`` that adds the headers of every response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(_HEADERS)
        await send(message)

    return send_with_headers
