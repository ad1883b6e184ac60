#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A launcher that uses asyncio: starts a VMM, and reports when its enclave has booted.

    launch_asyncio.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit applies to the heartbeat only. The VMM can run longer.
"""

import asyncio
import sys

import nitrohb


async def launch(address: str, seconds: float, command: list[str]) -> int:
    # The server already listens when the VMM starts. The thread that waits for the heartbeat cannot
    # be cancelled. It ends when this block ends.
    with nitrohb.serve_in_thread(address) as server:
        return await run_vmm(server, seconds, command)


async def run_vmm(server: nitrohb.ThreadServer, seconds: float, command: list[str]) -> int:
    vmm = await asyncio.create_subprocess_exec(*command)
    try:
        ended = asyncio.create_task(vmm.wait())
        booted = asyncio.create_task(asyncio.to_thread(server.wait_heartbeat, timeout=seconds))
        await asyncio.wait({ended, booted}, return_when=asyncio.FIRST_COMPLETED)
        if not booted.done():
            status = await ended
            raise nitrohb.NitrohbError(f"the VMM ended with status {status} before its heartbeat")
        beat = await booted
        print(f"booted: {beat.address} after {beat.listening_seconds:.1f} s", flush=True)
        return await ended
    finally:
        if vmm.returncode is None:
            vmm.terminate()
            await vmm.wait()


def main() -> int:
    address, seconds, *command = sys.argv[1:]
    try:
        return asyncio.run(launch(address, float(seconds), command))
    except (nitrohb.NitrohbError, OSError) as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
