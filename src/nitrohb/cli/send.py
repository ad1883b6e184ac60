# SPDX-License-Identifier: Apache-2.0
"""``nitrohb send``: the enclave's side."""

import argparse

from ..errors import PeerTimeoutError
from . import exits
from .console import Console
from .stop import Stop

__all__ = ["send"]


def send(args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Send one heartbeat, and say how it went."""
    from ..client import DEFAULT_PARENT, send_heartbeat
    from .waiting import waiting

    address = args.address or DEFAULT_PARENT

    async def beat() -> int:
        try:
            async with waiting(console, lambda: f"an answer from {address}"):
                seconds = await send_heartbeat(address, timeout=args.timeout)
        except* PeerTimeoutError as late:
            console.say(f"nitrohb: {late.exceptions[0]}")
            console.say("Is it a heartbeat server that listens there? It reports who connects.")
            seconds = None
        if seconds is None:
            return exits.TIMED_OUT
        console.print(f"{address} answered in {seconds * 1000:.1f} ms")
        return exits.DONE

    return stop.run(beat)
