# SPDX-License-Identifier: Apache-2.0
"""Hostile clients of the HTTP interface: ``python -m bench.hostile KIND SOCKET``.

Opens many connections in one thread until stdin ends. Then it prints the number of responses.
"""

import selectors
import socket
import sys
import time
from dataclasses import dataclass
from typing import Final

__all__ = ["KINDS", "Kind"]

_PIECE = 65536  # bytes read or written at a time
_TICK = 0.1  # seconds between two bytes of a slow client
_RESPONSE = b"HTTP/1.1 "


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def _post(body: str, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return f"POST /claims HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}".encode()


@dataclass(frozen=True)
class Kind:
    """A kind of clients.

    Attributes:
        label: Its name for people.
        count: How many connections.
        says: What each connection sends first.
        asks: Whether it sends this again after every response.
        drips: What it sends every 0.1 s.
        pours: What it sends repeatedly, as fast as possible.
        reads: Whether it reads.
        leaves: Whether it disconnects at once, and connects again.
        bursts: Whether all disconnect at the same time, every 0.1 s, and connect again.
    """

    label: str
    count: int
    says: bytes = b""
    asks: bool = False
    drips: bytes = b""
    pours: bytes = b""
    reads: bool = True
    leaves: bool = False
    bursts: bool = False


_CHUNKED: Final = b"POST /claims HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

_HEADERS: Final = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * 990 + b"\r\n"

KINDS: Final = {
    "asked": Kind("GET /metrics, ten times a second", 1, _get("/metrics"), drips=_get("/metrics")),
    "idle": Kind("connected, silent", 256),
    "slow-headers": Kind("headers byte by byte", 256, b"GET / HTTP/1.1\r\nX: ", drips=b"x"),
    "slow-body": Kind("a body byte by byte", 256, _post("", 9999), drips=b" "),
    "deaf": Kind("/events, never read", 64, _get("/events"), reads=False),
    "readers": Kind("/events, read", 64, _get("/events")),
    "claims": Kind("claims that wait", 128, _post("{}")),
    "metrics": Kind("GET /metrics, again and again", 200, _get("/metrics"), asks=True),
    "heartbeats": Kind("GET /heartbeats, again and again", 200, _get("/heartbeats"), asks=True),
    "pipeline": Kind("GET /healthz, pipelined", 200, pours=_get("/healthz") * 50),
    "deaf-pipeline": Kind("… and not read", 200, pours=_get("/healthz") * 50, reads=False),
    "reconnect": Kind("connect and close", 100, leaves=True),
    "bodies": Kind("bodies without end", 200, _post("", 10**12), pours=bytes(_PIECE)),
    "chunks": Kind("bodies in tiny chunks", 200, _CHUNKED, pours=b"1\r\n \r\n" * 1000),
    "headers": Kind("4 KiB of tiny headers", 100, pours=_HEADERS),
    "bursts": Kind("claims, all given up at once", 128, _post("{}"), bursts=True),
}


class _Clients:
    """All connections of one kind.

    Attributes:
        responses: The number of responses.
    """

    def __init__(self, kind: Kind, path: str) -> None:
        self.responses = 0
        self._kind = kind
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._open: dict[socket.socket, bytes] = {}  # and the data left to send
        self._behave = self._churn if kind.leaves else self._fill_up

    def run(self) -> None:
        """Run until stdin ends."""
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        tick = time.monotonic()
        while True:
            self._behave()
            for key, events in self._selector.select(0 if self._kind.leaves else _TICK):
                if not isinstance(key.fileobj, socket.socket):
                    return
                self._serve(key.fileobj, events)
            if time.monotonic() > tick:
                tick = time.monotonic() + _TICK
                self._on_tick()

    def _churn(self) -> None:
        for _ in range(self._kind.count):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                sock.connect_ex(self._path)

    def _fill_up(self) -> None:
        """Connect until all are connected, or the queue of the server is full."""
        while len(self._open) < self._kind.count:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            if sock.connect_ex(self._path) != 0:
                sock.close()
                return
            self._open[sock] = self._kind.says
            self._selector.register(sock, self._events(sock))

    def _events(self, sock: socket.socket) -> int:
        reads = selectors.EVENT_READ if self._kind.reads else 0
        writes = self._open[sock] or self._kind.pours or not reads
        return reads | (selectors.EVENT_WRITE if writes else 0)

    def _serve(self, sock: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._read(sock)
            if events & selectors.EVENT_WRITE:
                self._write(sock)
        except BlockingIOError:
            pass
        except OSError:
            self._close(sock)

    def _read(self, sock: socket.socket) -> None:
        data = sock.recv(_PIECE)
        if not data:
            raise ConnectionResetError
        count = data.count(_RESPONSE)
        self.responses += count
        if self._kind.asks:
            self._open[sock] += self._kind.says * count
            self._write(sock)

    def _write(self, sock: socket.socket) -> None:
        if not self._open[sock]:
            self._open[sock] = self._kind.pours
        self._open[sock] = self._open[sock][sock.send(self._open[sock]) :]
        if not self._kind.reads and not self._kind.pours:
            self._selector.unregister(sock)
        else:
            self._selector.modify(sock, self._events(sock))

    def _close(self, sock: socket.socket) -> None:
        if sock in self._selector.get_map():
            self._selector.unregister(sock)
        del self._open[sock]
        sock.close()

    def _on_tick(self) -> None:
        socks = list(self._open)
        if self._kind.bursts and len(socks) == self._kind.count:
            for sock in socks:
                self._close(sock)
        elif self._kind.drips:
            for sock in socks:
                if not self._open[sock]:
                    self._open[sock] = self._kind.drips
                    self._serve(sock, selectors.EVENT_WRITE)


def main() -> None:
    """Run the clients of one kind."""
    clients = _Clients(KINDS[sys.argv[1]], sys.argv[2])
    print("ready", flush=True)
    clients.run()
    print(clients.responses)


if __name__ == "__main__":
    main()
