# SPDX-License-Identifier: Apache-2.0
"""HTTP to a running interface, over real sockets."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.cli.process import PATIENCE


class OverTcp(http.client.HTTPConnection):
    """HTTP to a port of this machine."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=PATIENCE)

    def __enter__(self) -> "OverTcp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class OverUnix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    **headers: str,
) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, headers)
    response = connection.getresponse()
    content = response.read()
    return response.status, json.loads(content) if content.startswith((b"{", b"[")) else content


def port_that_is_free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
