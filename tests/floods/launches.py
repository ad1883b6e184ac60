# SPDX-License-Identifier: Apache-2.0
"""Fifty launchers at once. Each boots an enclave and waits for that one.

The server listens on fifty addresses. Some launchers ask for their heartbeat before the enclave is
started, the others after it has been answered.
"""

from collections.abc import Sequence
from functools import partial

import trio

from nitrohb import Address, Heartbeat, HeartbeatServer, send_heartbeat, serve_heartbeat

LAUNCHES = 50


async def launch(
    server: HeartbeatServer, address: Address, reaches: str, got: list[Heartbeat], asks_first: bool
) -> None:
    """Boot an enclave, and wait for its heartbeat, before or after it arrives."""

    async def wait() -> None:
        got.append(await server.wait_heartbeat(address=address))

    async with trio.open_nursery() as nursery:
        if asks_first:
            nursery.start_soon(wait)
        await send_heartbeat(reaches)
        if not asks_first:
            nursery.start_soon(wait)


async def race(addresses: Sequence[Address], reach: Sequence[str]) -> None:
    """Start all launchers at once, and check that each gets its own heartbeat only."""
    got: list[list[Heartbeat]] = [[] for _ in addresses]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_heartbeat, *addresses, keep=True)
            server: HeartbeatServer = await nursery.start(serve)
            async with trio.open_nursery() as launching:
                for number, of in enumerate(zip(addresses, reach, got, strict=True)):
                    launching.start_soon(launch, server, *of, number % 2 == 0)
            assert len(server.last_heartbeats()) == LAUNCHES
            nursery.cancel_scope.cancel()
    assert [[beat.address for beat in beats] for beats in got] == [[each] for each in addresses]
    assert len({id(beat) for beats in got for beat in beats}) == LAUNCHES
