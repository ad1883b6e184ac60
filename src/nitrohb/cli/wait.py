# SPDX-License-Identifier: Apache-2.0
"""``nitrohb wait``: ask a running server for the heartbeat of one enclave. Needs no extra."""

import argparse
import http.client
import json
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, cast

from ..addresses import UnixAddress, VsockAddress, parse_address
from ..api.address import ApiAddress, api_connect_error
from ..errors import NitrohbError, UsageError
from ..events import Heartbeat
from . import exits
from .console import Console
from .quoting import printable
from .report import to_json, to_text
from .stop import Stop

__all__ = ["wait"]

_LONGEST: Final = 3600.0  # seconds that a server lets one request wait
_PATIENCE: Final = 1.0  # seconds for everything but the wait itself
_MOST: Final = 64 * 1024  # bytes of an answer

_AGAIN: Final = (HTTPStatus.GATEWAY_TIMEOUT, HTTPStatus.SERVICE_UNAVAILABLE)
_PAUSE: Final = 0.5  # seconds, before a server is asked again that has no place for one more


def wait(args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Claim one heartbeat, and print it."""
    address: ApiAddress = args.api or UnixAddress("/run/nitrohb/api.sock")
    wanted: dict[str, object] = {"max_age": args.max_age}
    wanted |= {"address": str(args.address)} if args.cid is None else {"cid": args.cid}
    who = args.address if args.cid is None else f"CID {args.cid}"
    console.status(f"waiting for a heartbeat of {who}, {args.timeout:g} s at most")
    until = time.monotonic() + args.timeout
    status: int = HTTPStatus.GATEWAY_TIMEOUT
    answer: dict[str, Any] = {}
    while stop.signal is None and (left := until - time.monotonic()) > 0:
        timeout = min(left, _LONGEST)
        try:
            asked = {"timeout": max(round(timeout, 3), 0.001)}  # which the answer repeats
            status, answer = _ask(address, wanted | asked, timeout, stop)
        except TimeoutError:
            answer = {"detail": f"the server at {address} does not answer: it is busy, or stopped"}
        except ConnectionError:
            if stop.signal is None:
                raise _ended(address) from None
        except (OSError, http.client.HTTPException, ValueError):
            if stop.signal is None:
                raise _stranger(address) from None
        if status not in _AGAIN:
            break
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            time.sleep(min(_PAUSE, max(0.0, until - time.monotonic())))
    if stop.signal is not None:
        return 128 + stop.signal
    return _report(status, answer, address, args, console)


def _ended(address: ApiAddress) -> NitrohbError:
    return NitrohbError(
        f"the server at {address} has closed the connection: it has ended, or that is not its"
        " interface\n"
        "Start it again, or name what stands behind its --api:"
        f" nitrohb serve --keep --api {address}"
    )


def _stranger(address: ApiAddress) -> NitrohbError:
    return NitrohbError(
        f"what answers at {address} is no nitrohb\n"
        f"Its server is started by: nitrohb serve --keep --api {address}"
    )


def _report(
    status: int,
    answer: dict[str, Any],
    address: ApiAddress,
    args: argparse.Namespace,
    console: Console,
) -> int:
    """Print what a server has answered, and return the exit code for it."""
    match status:
        case HTTPStatus.OK:
            try:
                beat = _heartbeat(answer)
            except (KeyError, TypeError, ValueError):
                raise _stranger(address) from None
            console.print(to_json(beat) if args.format == "json" else to_text(beat))
            return exits.DONE
        case HTTPStatus.GATEWAY_TIMEOUT | HTTPStatus.SERVICE_UNAVAILABLE:
            console.say(f"nitrohb: {_detail(status, answer)}")
            if status == answer.get("status") == HTTPStatus.GATEWAY_TIMEOUT:
                console.say(f"What came instead, the server at {address} tells on its stdout.")
            return exits.TIMED_OUT
        case _ if answer.get("status") != status:  # no problem of ours
            raise _stranger(address)
        case HTTPStatus.BAD_REQUEST:
            raise UsageError(_detail(status, answer))
        case _:
            raise NitrohbError(_detail(status, answer))


def _detail(status: int, answer: dict[str, Any]) -> str:
    detail = str(answer.get("detail", f"the server answers with status {status}"))
    return "\n".join(map(printable, detail.split("\n")))


def _ask(
    address: ApiAddress, claim: dict[str, object], timeout: float, stop: Stop
) -> tuple[int, dict[str, Any]]:
    """Post a claim, and return the status of the answer and what it says."""
    with _connected(address, stop) as sock:
        sock.settimeout(timeout + _PATIENCE)
        connection = http.client.HTTPConnection("localhost")
        connection.sock = sock
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/claims", json.dumps(claim), headers)
        with connection.getresponse() as response:
            answer: Any = json.loads(response.read(_MOST))
            if not isinstance(answer, dict):
                raise ValueError("it is no JSON object")
            return response.status, cast("dict[str, Any]", answer)


@contextmanager
def _connected(address: ApiAddress, stop: Stop) -> Generator[socket.socket]:
    """Connect to a server; a signal ends the connection, and so whatever waits there."""
    family, name = (
        (socket.AF_UNIX, address.path)
        if isinstance(address, UnixAddress)
        else (address.family, address.name)
    )
    with socket.socket(family) as sock, stop.cancelling(lambda: _shut_down(sock)):
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(name)
        except OSError as error:
            if stop.signal is not None or error.errno is None:
                raise
            raise api_connect_error(address, error.errno) from error
        if stop.signal is not None:  # it came before there was anything to end
            raise ConnectionAbortedError
        yield sock


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _heartbeat(answer: dict[str, Any]) -> Heartbeat:
    peer = None if answer["peer"] is None else parse_address(answer["peer"])
    if not isinstance(peer, VsockAddress | None):
        raise ValueError(f"{peer} is no peer")
    return Heartbeat(
        address=parse_address(answer["address"]),
        time=datetime.fromisoformat(answer["time"]),
        peer=peer,
        byte=int(answer["byte"]),
        listening_seconds=float(answer["listening_seconds"]),
        echo_seconds=float(answer["echo_seconds"]),
        echoed=bool(answer["echoed"]),
    )
