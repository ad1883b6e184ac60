# SPDX-License-Identifier: Apache-2.0
"""``nitrohb wait``: claim the heartbeat of one enclave from a running server. Needs no extra."""

import json
import shlex
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, cast

from ..addresses import UnixAddress
from ..api.address import api_connect_error
from ..errors import NitrohbError, UsageError
from . import exit_codes
from .lines import json_line, text_line
from .output import INFO, Output, printable
from .settings import WaitSettings
from .signals import Signals

_LONGEST: Final = 3600.0  # seconds that a server lets one request wait (api/requests.py)
_PATIENCE: Final = 1.0  # seconds for everything but the wait itself
_ANSWER_MAX: Final = 64 * 1024  # bytes

_OK, _BAD_REQUEST, _BUSY, _TIMEOUT = 200, 400, 503, 504  # HTTP
_PAUSE: Final = 0.5  # seconds, before a busy server is asked again

_FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "time": (str,),
    "address": (str,),
    "cid": (int, type(None)),
    "peer": (str, type(None)),
    "byte": (int,),
    "listening_seconds": (float, int),
    "echo_seconds": (float, int),
    "echoed": (bool,),
}


def wait(settings: WaitSettings, output: Output, signals: Signals) -> int:
    """Claim one heartbeat, and print it."""
    target, server = settings.target, settings.api
    is_cid = isinstance(target, int)
    wanted: dict[str, object] = {"cid": target} if is_cid else {"address": str(target)}
    name = f"CID {target}" if is_cid else str(target)
    output.status(f"waiting for a heartbeat of {name}, {settings.timeout:g} s at most")
    until = time.monotonic() + settings.timeout
    status, answer = _TIMEOUT, dict[str, Any]()
    while signals.signal is None and (left := until - time.monotonic()) > 0:
        timeout = min(left, _LONGEST)
        # The answer repeats the timeout, so round it.
        claim = wanted | {"max_age": settings.max_age, "timeout": max(round(timeout, 3), 0.001)}
        try:
            status, answer = _post(settings, claim, timeout, signals)
        except TimeoutError:
            answer = {"detail": f"the server at {server} does not answer: it is busy, or stopped"}
        except BlockingIOError:  # the backlog of its Unix socket is full
            status, answer = _BUSY, {"detail": f"the server at {server} is busy"}
        except ConnectionError:
            if signals.signal is None:
                raise _ended(settings) from None
        except (OSError, ValueError, RecursionError):
            if signals.signal is None:
                raise _not_nitrohb(settings) from None
        if status not in (_TIMEOUT, _BUSY):
            break
        if status == _BUSY:
            time.sleep(min(_PAUSE, max(0.0, until - time.monotonic())))
    if signals.signal is not None:
        return 128 + signals.signal
    return _print_answer(status, answer, settings, output)


def _ended(settings: WaitSettings) -> NitrohbError:
    return NitrohbError(
        f"the server at {settings.api} has closed the connection: it has ended, or this is not its"
        " interface\n"
        "Start it again, or name the address of its --api:"
        f" nitrohb serve --keep --api {shlex.quote(str(settings.api))}"
    )


def _not_nitrohb(settings: WaitSettings) -> NitrohbError:
    return NitrohbError(
        f"the server at {settings.api} is not nitrohb\n"
        f"Start nitrohb there: nitrohb serve --keep --api {shlex.quote(str(settings.api))}"
    )


def _print_answer(
    status: int, answer: dict[str, Any], settings: WaitSettings, output: Output
) -> int:
    """Print what a server has answered, and return the exit code for it."""
    if status == _OK:
        is_event = all(isinstance(answer.get(name), kinds) for name, kinds in _FIELDS.items())
        if not is_event or set(answer["time"]) - set("0123456789-:.TZ"):
            raise _not_nitrohb(settings)
        fields = {"event": "heartbeat"} | {name: answer.get(name) for name in _FIELDS}
        to_line = json_line if settings.format == "json" else text_line
        output.print_out(to_line(fields, INFO))
        return exit_codes.DONE
    if status in (_TIMEOUT, _BUSY):
        output.print_err(f"nitrohb: {_detail(status, answer)}")
        if status == answer.get("status") == _TIMEOUT:
            output.print_err(
                f"The server at {settings.api} prints on its stdout what connected instead."
            )
        return exit_codes.TIMED_OUT
    if answer.get("status") != status:  # not a problem as nitrohb reports it
        raise _not_nitrohb(settings)
    raise (UsageError if status == _BAD_REQUEST else NitrohbError)(_detail(status, answer))


def _detail(status: int, answer: dict[str, Any]) -> str:
    detail = str(answer.get("detail", f"the server answers with status {status}"))
    return "\n".join(map(printable, detail.split("\n")))


# HTTP. http.client would take as long to load as the rest of the command takes.


def _post(
    settings: WaitSettings, claim: dict[str, object], timeout: float, signals: Signals
) -> tuple[int, dict[str, Any]]:
    """Post a claim, and return the status and the JSON object of the answer.

    Raises:
        ValueError: The answer is not of that kind.
    """
    body = json.dumps(claim).encode()
    head = (
        "POST /claims HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with _connected(settings, signals) as sock:
        sock.settimeout(timeout + _PATIENCE)
        sock.sendall(head.encode() + body)
        answer = receive_all(sock, time.monotonic() + timeout + _PATIENCE)
    header, _, content = answer.partition(b"\r\n\r\n")
    version, status, *_ = header.split(b" ", 2)
    if not version.startswith(b"HTTP/1."):
        raise ValueError("it does not speak HTTP")
    found: Any = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError("the answer is not a JSON object")
    return int(status), cast("dict[str, Any]", found)


def receive_all(sock: socket.socket, deadline: float) -> bytes:
    """Read until the server closes the connection, but not much and not for long."""
    received = b""
    while len(received) < _ANSWER_MAX and (data := sock.recv(_ANSWER_MAX)):
        received += data
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
    if not received:
        raise ConnectionAbortedError
    return received


@contextmanager
def _connected(settings: WaitSettings, signals: Signals) -> Generator[socket.socket]:
    """Connect to the server. A signal shuts the connection down."""
    address = settings.api
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
        if signals.signal is not None:  # it arrived before there was anything to shut down
            raise ConnectionAbortedError
        yield sock


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
