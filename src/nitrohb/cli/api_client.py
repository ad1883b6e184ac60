# SPDX-License-Identifier: Apache-2.0
"""Send requests to the HTTP interface of a running server, for ``wait``, ``listen``, ``unlisten``.

This needs no extra. To load http.client would take as long as the rest of such a command.
"""

import json
import shlex
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, cast

from ..addresses import UnixAddress
from ..api.address import ApiAddress, api_connect_error
from ..errors import NitrohbError, UsageError
from . import exit_codes
from .output import printable
from .signals import Signals

OK, CREATED, NO_CONTENT, BUSY, TIMEOUT = 200, 201, 204, 503, 504
_BAD_REQUEST: Final = 400

_PATIENCE: Final = 1.0  # seconds for everything but the wait itself
_CHANGE: Final = 5.0  # seconds within which a server makes a change, unless it is busy
_ANSWER_MAX: Final = 64 * 1024  # bytes
# Seconds. If a signal arrives just before recv(2), its handler runs only after the call.
_SIGNAL_CHECK: Final = 0.5


def request(
    api: ApiAddress, call: str, body: object, timeout: float, signals: Signals
) -> tuple[int, dict[str, Any]]:
    """Send a request, and return the status and the JSON object of the answer.

    If the server is busy or does not answer in time, the result is a status of 503 or 504 and an
    object that has a ``detail``, but no ``status``. After a signal the result is 0 and ``{}``.

    Args:
        api: The address of the interface.
        call: The method and the path.
        body: The content, which is sent as JSON; None for no content.
        timeout: How long the server can take to answer, in seconds.
        signals: The signal handlers: a signal ends the request.

    Raises:
        ConnectError: nitrohb cannot connect to the server.
        NitrohbError: The server has ended, or is not nitrohb.
    """
    try:
        return _exchange(api, call, body, timeout, signals)
    except (OSError, ValueError, RecursionError) as error:
        if signals.signal is not None:
            return 0, {}
        if isinstance(error, TimeoutError):
            why = f"the server at {api} does not answer: it is busy or stopped"
            return TIMEOUT, {"detail": why}
        if isinstance(error, BlockingIOError):  # the backlog of its Unix socket is full
            return BUSY, {"detail": f"the server at {api} is busy"}
        if isinstance(error, ConnectionError):
            raise NitrohbError(
                f"the server at {api} closed the connection: it has ended, or this is not its HTTP"
                " interface\nName the address of its --api, or start it again:"
                f" nitrohb serve --keep --api {shlex.quote(str(api))}"
            ) from None
        raise not_nitrohb(api) from None


def change(api: ApiAddress, call: str, body: object, signals: Signals) -> int:
    """Send a request that changes the server, and return the exit code."""
    status, answer = request(api, call, body, _CHANGE, signals)
    if signals.signal is not None:
        return 128 + signals.signal
    if status in (CREATED, NO_CONTENT):
        return exit_codes.DONE
    raise refusal(api, status, answer)


def refusal(api: ApiAddress, status: int, answer: dict[str, Any]) -> NitrohbError:
    """The error for an answer that is not a success."""
    why = _detail(status, answer)
    if status in (TIMEOUT, BUSY):
        return NitrohbError(why if "\n" in why else f"{why}\nCheck that it runs, then try again.")
    if answer.get("status") != status:
        return not_nitrohb(api)  # nitrohb repeats the status in each problem
    kind = UsageError if status == _BAD_REQUEST else NitrohbError
    return kind(why)


def not_nitrohb(api: ApiAddress) -> NitrohbError:
    """The error for a server that is not nitrohb."""
    return NitrohbError(
        f"the server at {api} is not nitrohb\n"
        f"Start nitrohb there: nitrohb serve --keep --api {shlex.quote(str(api))}"
    )


def _detail(status: int, answer: dict[str, Any]) -> str:
    """The reason that a server gives for a failed request."""
    text = str(answer.get("detail", f"the server answered with status {status}"))
    return "\n".join(map(printable, text.split("\n")))


def _exchange(
    api: ApiAddress, call: str, body: object, timeout: float, signals: Signals
) -> tuple[int, dict[str, Any]]:
    content = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{call} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with _connected(api, signals) as sock:
        sock.sendall(head.encode() + content)
        answer = receive_all(sock, time.monotonic() + timeout + _PATIENCE)
    header, _, content = answer.partition(b"\r\n\r\n")
    version, status, *_ = header.split(b" ", 2)
    if not version.startswith(b"HTTP/1."):
        raise ValueError("the server does not speak HTTP")
    found: Any = json.loads(content or "{}")
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object")
    return int(status), cast("dict[str, Any]", found)


def receive_all(sock: socket.socket, deadline: float) -> bytes:
    """Read until the server closes the connection, with limits of size and time."""
    received = b""
    while len(received) < _ANSWER_MAX and (data := _receive(sock, deadline)):
        received += data
    if not received:
        raise ConnectionAbortedError
    return received


def _receive(sock: socket.socket, deadline: float) -> bytes:
    """Wait for bytes. Twice a second, let the handlers of signals run."""
    while True:
        left = deadline - time.monotonic()
        sock.settimeout(min(max(left, 0.001), _SIGNAL_CHECK))
        try:
            return sock.recv(_ANSWER_MAX)
        except TimeoutError:
            if left <= _SIGNAL_CHECK:
                raise


@contextmanager
def _connected(address: ApiAddress, signals: Signals) -> Generator[socket.socket]:
    """Connect to the server. A signal shuts the connection down."""
    family, name = (
        (socket.AF_UNIX, address.path)
        if isinstance(address, UnixAddress)
        else (address.family, address.name)
    )
    try:
        sock = socket.socket(family)
    except OSError as error:
        raise api_connect_error(address, error.errno or 0) from error
    with sock, signals.cancelling(lambda: _shut_down(sock)):
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(name)
        except OSError as error:
            is_busy = isinstance(error, BlockingIOError)
            if is_busy or signals.signal is not None or error.errno is None:
                raise
            raise api_connect_error(address, error.errno) from error
        if signals.signal is not None:  # it arrived before the connection could be shut down
            raise ConnectionAbortedError
        yield sock


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
