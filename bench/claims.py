# SPDX-License-Identifier: Apache-2.0
"""Times how long a claim waits for its heartbeat after the echo, beside 64 other claims."""

import json
import os
import select
import socket
import time
from contextlib import ExitStack, closing

from .processes import BenchError, connect, prefer

__all__ = ["p99_ms"]

_OTHERS = 64
_BEATS = 100
_SETTLED = 0.02  # seconds until the interface has read a claim: connections take turns


def p99_ms(where: str, other: str, api: str, server: int) -> float:
    """Return the milliseconds from an echo to the end of the response to its claim, at p99.

    Args:
        where: The socket of the heartbeats.
        other: The socket that the other claims name.
        api: The socket of the interface.
        server: The process ID of the server. It and this process get priority on their cores, so
            that only delays in the server are measured.
    """
    with ExitStack() as stack:
        others = [stack.enter_context(connect(api)) for _ in range(_OTHERS)]
        for each in others:
            _claim(each, {"address": f"unix:{other}", "timeout": 600})
        waiter = stack.enter_context(connect(api))
        time.sleep(_OTHERS * _SETTLED)
        for pid in (server, 0):
            prefer(pid)
        stack.callback(prefer, 0, os.SCHED_OTHER)
        waits = sorted(_wait(waiter, where) for _ in range(_BEATS))
        if select.select(others, [], [], 0)[0]:
            raise BenchError("a claim that should wait was answered")
    return waits[_BEATS * 99 // 100 - 1] * 1000


def _wait(waiter: socket.socket, where: str) -> float:
    _claim(waiter, {"address": f"unix:{where}", "timeout": 10})
    time.sleep(_SETTLED)
    with closing(connect(where)) as enclave:
        enclave.sendall(b"\xb7")
        enclave.recv(1)
        echoed = time.monotonic()
    response = b""
    while not response.endswith(b"}"):
        if not (data := waiter.recv(4096)):
            break
        response += data
    took = time.monotonic() - echoed
    if not response.startswith(b"HTTP/1.1 200 "):
        raise BenchError(f"a waiter got no heartbeat: {response!r}")
    return took


def _claim(sock: socket.socket, claim: dict[str, object]) -> None:
    body = json.dumps(claim)
    head = f"POST /claims HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(f"{head}{body}".encode())
