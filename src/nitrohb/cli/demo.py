# SPDX-License-Identifier: Apache-2.0
"""``nitrohb demo``: show both sides of a boot in one process."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial

import trio

from ..addresses import UnixAddress
from ..client import send_heartbeat
from ..errors import AddressError, NitrohbError, described
from ..events import Event
from ..protocol import HEARTBEAT
from ..remedies import descriptor_shortage
from ..server import serve_heartbeat
from ..sockets.scratch import scratch_path
from . import exit_codes
from .output import Output
from .report import to_text
from .settings import DemoSettings
from .signals import Signals


def demo(_settings: DemoSettings, output: Output, signals: Signals) -> int:
    """Show a heartbeat from both sides, on a temporary Unix socket."""

    def parent(event: Event) -> None:
        output.print_out(f"parent   {to_text(event)}")

    async def boot(address: UnixAddress) -> int:
        byte = f"0x{HEARTBEAT[0]:02X}"
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, address, on_event=parent))
            output.print_out(f"enclave  boots: its init connects and sends {byte}")
            seconds = await send_heartbeat(address)
        output.print_out(
            f"enclave  got {byte} back after {seconds * 1000:.1f} ms, and continues to boot\n"
            "enclave  (without an answer, its init would exit)"
        )
        return exit_codes.DONE

    with _address() as address:
        status = signals.run(partial(boot, address))
    if status == exit_codes.DONE:
        output.print_out("That was a whole boot. For a real enclave, run: nitrohb serve")
    return status


@contextmanager
def _address() -> Generator[UnixAddress]:
    with ExitStack() as stack:
        try:
            address = UnixAddress(stack.enter_context(scratch_path("demo.sock")))
        except AddressError as error:
            why = str(error).partition("\n")[0]
            raise NitrohbError(
                f"cannot create the socket of the demo: {why}\n"
                "Name a shorter directory: TMPDIR=DIR nitrohb demo"
            ) from error
        except OSError as error:
            raise descriptor_shortage(error.errno) or NitrohbError(
                f"cannot create the socket of the demo: {described(error)}\n"
                "Name a directory in which you can write: TMPDIR=DIR nitrohb demo"
            ) from error
        yield address
