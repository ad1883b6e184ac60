#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start a VMM, and report when its enclave has booted: a launcher that uses trio.

For example: launch_trio.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit applies to the heartbeat only. The VMM can run longer. SIGINT and SIGTERM end it.
"""

import argparse
import math
import signal
import sys
from collections.abc import AsyncIterator

import trio

import nitrohb


class Launch:
    """One launch. An error, or else the first call of end(), decides the exit code."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.waiting = trio.CancelScope()  # for the heartbeat, until the VMM ends
        self.vmm_ended = trio.Event()

    def end(self, code: int) -> None:
        if self.code is None:
            self.code = code
        self.nursery.cancel_scope.cancel()

    async def run_vmm(self, command: list[str]) -> None:
        # A cancellation ends the VMM: SIGTERM, and SIGKILL after 5 s.
        self.vmm = await trio.run_process(command, stdin=None, check=False)
        await trio.sleep(0.5)  # a signal to both can end the VMM first, and cancels this
        self.waiting.cancel()
        self.vmm_ended.set()

    async def end_on_signal(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            self.end(128 + number)

    async def run(self, address: str, seconds: float, command: list[str]) -> int | None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as outer:  # takes signals until the VMM has ended
                outer.start_soon(self.end_on_signal, signals)
                try:
                    async with trio.open_nursery() as self.nursery:
                        await self.launch(address, seconds, command)
                except* (nitrohb.NitrohbError, OSError) as group:  # a nursery raises groups
                    self.code = 1
                    for error in group.exceptions:
                        print(f"launch: {error}", file=sys.stderr)
                outer.cancel_scope.cancel()
        return self.code

    async def launch(self, address: str, seconds: float, command: list[str]) -> None:
        # When start() returns, the server listens.
        server: nitrohb.HeartbeatServer
        server = await self.nursery.start(nitrohb.serve_heartbeat, address)
        self.nursery.start_soon(self.run_vmm, command)
        beat = None
        with self.waiting:
            beat = await server.wait_heartbeat(timeout=seconds)
        if beat is None:
            beat = await self.last_chance(server)
        print(f"booted: {beat.address} after {beat.listening_seconds:.1f} s", flush=True)
        await self.vmm_ended.wait()
        self.end(self.vmm.returncode)

    async def last_chance(self, server: nitrohb.HeartbeatServer) -> nitrohb.Heartbeat:
        """The VMM has ended: return a heartbeat that came just before, or say what came instead."""
        try:
            # The server is as old as the launch. Without max_age, it would report only 60 s.
            return await server.wait_heartbeat(timeout=0, max_age=math.inf)
        except nitrohb.HeartbeatTimeoutError as late:
            why = f"the VMM ended with status {self.vmm.returncode} before its heartbeat"
            raise nitrohb.HeartbeatTimeoutError(why, late.instead) from None


def main() -> int | None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("seconds", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("give the command that starts the VMM")
    return trio.run(Launch().run, args.address, args.seconds, args.command)


if __name__ == "__main__":
    sys.exit(main())
