# SPDX-License-Identifier: Apache-2.0
"""Fifty launchers at once, each of which boots an enclave and waits for just that one.

Every part is real: the server listens on fifty addresses, each launcher starts a process that does
what an enclave's init does, and all of them run at the same time. Some ask for their heartbeat
before the enclave is started, the others after it has been answered.
"""

import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from nitrohb import Address, Heartbeat, HeartbeatServer, serve_heartbeat

LAUNCHES = 50
CLIENTS = Path(__file__).parents[1] / "floods" / "clients.py"


class Launch:
    """One launcher, and the heartbeats that it was given."""

    def __init__(self, address: Address, reaches: str, *, asks_first: bool) -> None:
        self.address = address
        self.got: list[Heartbeat] = []
        self._init = [sys.executable, "-IS", str(CLIENTS), "boot", reaches]
        self._asks_first = asks_first

    async def run(self, server: HeartbeatServer) -> None:
        async with trio.open_nursery() as nursery:
            if self._asks_first:
                nursery.start_soon(self._wait, server)
            await trio.run_process(self._init, stdin=subprocess.DEVNULL)
            if not self._asks_first:
                nursery.start_soon(self._wait, server)

    async def _wait(self, server: HeartbeatServer) -> None:
        self.got.append(await server.wait_heartbeat(address=self.address))


async def race(addresses: Sequence[Address], reach: Sequence[str]) -> None:
    """Let all of them start at once, and see that each was given its own, and nothing else."""
    launches = [
        Launch(*of, asks_first=number % 2 == 0)
        for number, of in enumerate(zip(addresses, reach, strict=True))
    ]
    with trio.fail_after(300):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_heartbeat, *addresses, once=False)
            server: HeartbeatServer = await nursery.start(serve)
            async with trio.open_nursery() as launching:
                for launch in launches:
                    launching.start_soon(launch.run, server)
            assert len(server.last_heartbeats()) == LAUNCHES
            nursery.cancel_scope.cancel()
    assert [[beat.address for beat in launch.got] for launch in launches] == [
        [address] for address in addresses
    ]
    assert len({id(beat) for launch in launches for beat in launch.got}) == LAUNCHES
