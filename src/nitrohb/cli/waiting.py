# SPDX-License-Identifier: Apache-2.0
"""The status line of a long wait."""

from collections.abc import Sequence

import trio

from ..listeners import Listener
from .console import Console

__all__ = ["show_waiting"]


async def show_waiting(console: Console, listeners: Sequence[Listener]) -> None:
    """Show what is waited for and for how long, every second, until cancelled."""
    where = ", ".join(str(listener.address) for listener in listeners)
    while True:
        age = int(min(listener.age for listener in listeners))
        console.status(f"{age // 60}:{age % 60:02} waiting for a heartbeat on {where}")
        await trio.sleep(1)
