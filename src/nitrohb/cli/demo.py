# SPDX-License-Identifier: Apache-2.0
"""``nitrohb demo``: both sides of a boot in one process."""

import argparse
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import partial

from ..addresses import UnixAddress
from ..errors import NitrohbError
from ..remedies import descriptor_shortage
from ..sockets.scratch import scratch_path
from . import exits
from .console import Console
from .stop import Stop

__all__ = ["demo"]


def demo(_args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Show a heartbeat, from both sides, on a Unix socket that exists only meanwhile."""
    import trio

    from ..client import send_heartbeat
    from ..events import Event
    from ..protocol import HEARTBEAT
    from ..server import serve_heartbeat
    from .report import to_text

    def parent(event: Event) -> None:
        console.print(f"parent   {to_text(event)}")

    async def boot(address: UnixAddress) -> int:
        byte = f"0x{HEARTBEAT[0]:02X}"
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, address, on_event=parent))
            console.print(f"enclave  boots: its init connects and sends {byte}")
            seconds = await send_heartbeat(address)
        console.print(f"enclave  got {byte} back after {seconds * 1000:.1f} ms: it goes on to")
        console.print("enclave  start its application; without an answer it would now be dead")
        return exits.DONE

    with _place() as path:
        status = stop.run(partial(boot, UnixAddress(path)))
    if status == exits.DONE:
        console.print("That was a whole boot. For a real enclave: nitrohb serve (see --help)")
    return exits.FAILED if console.has_lost else status


@contextmanager
def _place() -> Generator[str]:
    with ExitStack() as stack:
        try:
            path = stack.enter_context(scratch_path("demo.sock"))
        except OSError as error:
            raise descriptor_shortage(error.errno) or NitrohbError(
                f"the demo finds no place for its socket: {error.strerror}\n"
                "Name a directory in which you can write: TMPDIR=DIR nitrohb demo"
            ) from error
        yield path
