#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start a VMM, and say when its enclave has booted: a launcher that uses trio.

    launch_trio.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit is for the heartbeat only: the VMM may run for as long as it likes.
"""

import sys
from functools import partial

import trio

import nitrohb


async def launch(address: str, seconds: float, command: list[str]) -> int:
    status: int | None = None
    beat: nitrohb.Heartbeat | None = None

    async def run_vmm() -> None:
        nonlocal status
        # If the time is up, this is cancelled, and then it terminates the VMM.
        status = (await trio.run_process(command, stdin=None, check=False)).returncode
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        # It returns when the server listens: only then is the VMM started.
        serve = partial(nitrohb.serve_heartbeat, address)
        server: nitrohb.HeartbeatServer = await nursery.start(serve)
        nursery.start_soon(run_vmm)
        with trio.move_on_after(seconds) as limit:
            beat = booted = await server.wait_heartbeat()
            print(f"booted: {booted.address} after {booted.listening_seconds:.1f} s", flush=True)
        if limit.cancelled_caught:
            nursery.cancel_scope.cancel()
    if beat is not None:
        return status or 0
    if status is None:
        raise nitrohb.HeartbeatTimeoutError(f"no heartbeat within {seconds:g} s")
    raise nitrohb.NitrohbError(f"the VMM ended with status {status} before its heartbeat")


def main() -> int:
    address, seconds, *command = sys.argv[1:]
    try:
        return trio.run(launch, address, float(seconds), command)
    except* (nitrohb.NitrohbError, OSError) as group:  # the errors of a nursery come in a group
        for error in group.exceptions:
            print(f"launch: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
