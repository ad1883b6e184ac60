# SPDX-License-Identifier: Apache-2.0
"""A server with its HTTP interface on TCP, and a wait for what another program does."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.api.over_http import OverTcp, ask, port_that_is_free
from tests.cli.process import PATIENCE, Script, started

T = TypeVar("T")


class Server:
    """A running server.

    Attributes:
        script: Its process, whose stdout has every event, as JSON.
        port: The port of its interface, on 127.0.0.1.
    """

    def __init__(self, script: Script, port: int) -> None:
        self.script = script
        self.port = port

    def get(self, path: str) -> tuple[int, Any]:
        return get(self.port, path)

    def end(self) -> str:
        """End it, and return what it has printed."""
        self.script.popen.terminate()
        code, out, err = self.script.end()
        assert (code, err) == (143, "")
        return out


@contextmanager
def serving(*paths: Path, port: int = 0, options: tuple[str, ...] = ()) -> Generator[Server]:
    """A server that listens on some paths."""
    port = port or port_that_is_free()
    listen = [f"--listen=unix:{path}" for path in paths]
    args = ("--keep", "--format", "json", "--api", f"127.0.0.1:{port}", *listen, *options)
    with started("serve", *args) as script:
        server = Server(script, port)
        until(lambda: server.get("/readyz")[0], 200)
        yield server


def get(port: int, path: str) -> tuple[int, Any]:
    """Send a request to 127.0.0.1. Status 0 means that nobody listens there."""
    with OverTcp(port) as client:
        try:
            return ask(client, "GET", path)
        except ConnectionRefusedError:
            return 0, b""


def until(look: Callable[[], T], expected: T) -> None:
    """Wait until a call returns the expected value."""
    deadline = time.monotonic() + PATIENCE
    while (got := look()) != expected:
        assert time.monotonic() < deadline, f"expected {expected}, got {got}"
        time.sleep(0.02)
