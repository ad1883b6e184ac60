#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A launcher that uses trio: starts a VMM, and reports when its enclave has booted.

    launch_trio.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit applies to the heartbeat only. The VMM can run longer.
"""

import sys

import trio

import nitrohb


async def launch(address: str, seconds: float, command: list[str]) -> int:
    status: int | None = None
    has_booted = False

    async def run_vmm() -> None:
        nonlocal status
        # If the time is up, this is cancelled, and ends the VMM.
        status = (await trio.run_process(command, stdin=None, check=False)).returncode
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        # When start() returns, the server listens.
        server: nitrohb.HeartbeatServer = await nursery.start(nitrohb.serve_heartbeat, address)
        nursery.start_soon(run_vmm)
        beat = await server.wait_heartbeat(timeout=seconds)
        has_booted = True
        print(f"booted: {beat.address} after {beat.listening_seconds:.1f} s", flush=True)
    if not has_booted:
        raise nitrohb.NitrohbError(f"the VMM ended with status {status} before its heartbeat")
    return status or 0


def main() -> int:
    address, seconds, *command = sys.argv[1:]
    try:
        return trio.run(launch, address, float(seconds), command)
    except* (nitrohb.NitrohbError, OSError) as group:  # a nursery raises its errors as a group
        for error in group.exceptions:
            print(f"launch: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
