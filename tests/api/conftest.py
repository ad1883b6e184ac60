# SPDX-License-Identifier: Apache-2.0
"""Servers, each with an application and a client of it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from nitrohb import Listener, open_listeners, serve_heartbeat
from nitrohb.api.app import create_app
from nitrohb.api.backend import Backend
from tests.support import B7, Client, PeersWithCids, settled

from . import asgi


class Running:
    """A server and a client of its application."""

    def __init__(self, client: asgi.Client, backend: Backend, scope: trio.CancelScope) -> None:
        self.client = client
        self.backend = backend
        self.end = scope.cancel


@asynccontextmanager
async def running(*listen: Path | Listener, once: bool = False) -> AsyncGenerator[Running]:
    """A server that has started, on paths or listeners, and a client of its application."""
    addresses: list[Any] = [f"unix:{it}" if isinstance(it, Path) else it for it in listen]
    listeners: list[Listener] = open_listeners(addresses)
    backend = Backend(listener.address for listener in listeners)
    serve = partial(serve_heartbeat, *listeners, once=once, on_event=backend.on_event)

    async def run() -> None:
        with scope:
            await serve(task_status=backend)

    scope = trio.CancelScope()
    app = create_app(backend)
    async with asgi.client_of(app) as client, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await settled()
        yield Running(client, backend, scope)
        scope.cancel()


async def beat(enclave: Path | Client) -> None:
    """Send a heartbeat, and see it answered."""
    with Client(enclave) if isinstance(enclave, Path) else enclave as client:
        client.send(B7)
        await settled()
        assert client.look() == (B7, True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


@pytest.fixture
def vsock(tmp_path: Path) -> PeersWithCids:
    return PeersWithCids(tmp_path / "vsock")
