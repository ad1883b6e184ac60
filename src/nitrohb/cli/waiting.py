# SPDX-License-Identifier: Apache-2.0
"""The status line of a wait."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from .console import Console

__all__ = ["waiting"]


@asynccontextmanager
async def waiting(console: Console, what: Callable[[], str]) -> AsyncGenerator[None]:
    """Show on a terminal what is waited for and for how long, while the block runs."""
    async with trio.open_nursery() as nursery:
        if console.is_terminal:
            nursery.start_soon(_show, console, what)
        yield
        nursery.cancel_scope.cancel()


async def _show(console: Console, what: Callable[[], str]) -> None:
    began = trio.current_time()
    while True:
        seconds = round(trio.current_time() - began)
        console.status(f"{seconds // 60}:{seconds % 60:02} waiting for {what()}")
        await trio.sleep(1)
