#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start a VMM, and report when its enclave has booted: a launcher that uses asyncio.

For example: launch_asyncio.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit applies to the heartbeat only. The VMM can run longer. SIGINT and SIGTERM end it.
"""

import argparse
import asyncio
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import nitrohb

Wait = Callable[..., nitrohb.Heartbeat]  # server.wait_heartbeat(), or a partial() of it


async def launch(address: str, seconds: float, command: list[str]) -> int:
    launching = asyncio.current_task()
    assert launching is not None
    signals: list[int] = []

    def stop(number: int) -> None:
        signals.append(number)
        launching.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    # The server listens when the block begins. The end of the block also ends the wait.
    try:
        with nitrohb.serve_in_thread(address) as server:
            return await run_vmm(server.wait_heartbeat, seconds, command)
    except asyncio.CancelledError:
        return 128 + signals[0]


async def run_vmm(wait: Wait, seconds: float, command: list[str]) -> int:
    """Run one VMM to its end, and return its exit status."""
    with suppress(nitrohb.HeartbeatTimeoutError):
        while True:  # drop the heartbeats of an earlier launch
            await asyncio.to_thread(wait, timeout=0, max_age=math.inf)
    started = time.monotonic()
    vmm = await asyncio.create_subprocess_exec(*command)
    try:
        beat = await wait_for_heartbeat(wait, vmm, started, seconds)
        passed = time.monotonic() - started
        print(f"booted: {beat.address} after {passed:.1f} s", flush=True)
        status = await vmm.wait()
        # Ctrl-C can end the VMM before SIGINT arrives here and cancels this sleep.
        await asyncio.sleep(0.5)
        return status if status >= 0 else 128 - status
    finally:
        await end(vmm)


async def wait_for_heartbeat(
    wait: Wait, vmm: asyncio.subprocess.Process, started: float, seconds: float
) -> nitrohb.Heartbeat:
    while True:  # short waits, because a thread cannot be cancelled
        status = vmm.returncode  # before the wait: a heartbeat before the end of the VMM counts
        left = started + seconds - time.monotonic()
        limit = min(0.5, max(left, 0))
        try:
            # Without max_age, the error would not list what came more than 60 s before the call.
            return await asyncio.to_thread(wait, timeout=limit, max_age=math.inf)
        except nitrohb.HeartbeatTimeoutError as late:
            if status is not None:
                why = f"the VMM ended with status {status} before its heartbeat"
            elif left <= 0:
                why = f"no heartbeat within {seconds:g} s"
            else:
                continue
            raise nitrohb.HeartbeatTimeoutError(why, late.instead) from None


async def end(vmm: asyncio.subprocess.Process) -> None:
    """End the VMM. A cancellation waits until it has ended."""
    ending, cancelled = asyncio.create_task(terminate(vmm)), None
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def terminate(vmm: asyncio.subprocess.Process) -> None:
    if vmm.returncode is None:
        vmm.terminate()
        try:
            await asyncio.wait_for(vmm.wait(), 5)
        except TimeoutError:
            vmm.kill()
            await vmm.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("seconds", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("give the command that starts the VMM")
    try:
        return asyncio.run(launch(args.address, args.seconds, args.command))
    except (nitrohb.NitrohbError, OSError) as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
