# SPDX-License-Identifier: Apache-2.0
"""What the tests of the application have in common: servers, with an application for each."""

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
from tests.support import PeersWithCids

from .asgi import Client, client_of


class Running:
    """A server and a client of its application."""

    def __init__(self, client: Client, backend: Backend, scope: trio.CancelScope) -> None:
        self.client = client
        self.backend = backend
        self.end = scope.cancel


@asynccontextmanager
async def running(*listen: Any, once: bool = False, **options: Any) -> AsyncGenerator[Running]:
    """A server that keeps on, unless it is told otherwise, and a client of its application."""
    listeners: list[Listener] = open_listeners(listen)
    backend = Backend(listener.address for listener in listeners)
    serve = partial(serve_heartbeat, *listeners, once=once, on_event=backend.on_event)

    async def run() -> None:
        with scope:
            await serve(task_status=backend)

    scope = trio.CancelScope()
    async with client_of(create_app(backend, **options)) as client, trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield Running(client, backend, scope)
        scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


@pytest.fixture
def vsock(tmp_path: Path) -> PeersWithCids:
    return PeersWithCids(tmp_path / "vsock")
