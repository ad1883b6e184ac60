# SPDX-License-Identifier: Apache-2.0
"""``nitrohb send``: send a heartbeat, as an enclave does."""

from ..client import send_heartbeat
from ..errors import HeartbeatTimeoutError
from . import exit_codes
from .output import Output
from .printer import status_line
from .settings import SendSettings
from .signals import Signals


def send(settings: SendSettings, output: Output, signals: Signals) -> int:
    """Send one heartbeat, and print after how long the echo came."""
    address = settings.address

    async def beat() -> int:
        try:
            async with status_line(output, lambda: f"an answer from {address}"):
                seconds = await send_heartbeat(address, timeout=settings.timeout)
        except* HeartbeatTimeoutError as late:
            output.print_err(f"nitrohb: {late.exceptions[0]}")
            seconds = None
        if seconds is None:
            return exit_codes.TIMED_OUT
        output.print_out(f"{address} answered in {seconds * 1000:.1f} ms")
        return exit_codes.DONE

    return signals.run(beat)
