#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start a VMM, and report when its enclave has booted: a launcher without trio.

For example: launch.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit applies to the heartbeat only. The VMM can run longer. SIGINT and SIGTERM end it.
"""

import argparse
import math
import signal
import subprocess
import sys
import time
from contextlib import suppress

import nitrohb

# The handlers only store a signal: an exception from a handler could leave the VMM running.
signals: list[int] = []


def wait_for_heartbeat(
    server: nitrohb.ThreadServer, vmm: "subprocess.Popen[bytes]", started: float, seconds: float
) -> nitrohb.Heartbeat | None:
    """Return the heartbeat, or None if a signal came before it."""
    while not signals:
        status = vmm.poll()  # before the wait: a heartbeat before the end of the VMM counts
        left = started + seconds - time.monotonic()
        try:
            # Without max_age, the error would not list what came more than 60 s before the call.
            return server.wait_heartbeat(timeout=min(0.5, max(left, 0)), max_age=math.inf)
        except nitrohb.HeartbeatTimeoutError as late:
            if signals:
                break
            if status is not None:
                why = f"the VMM ended with status {status} before its heartbeat"
            elif left <= 0:
                why = f"no heartbeat within {seconds:g} s"
            else:
                continue
            raise nitrohb.HeartbeatTimeoutError(why, late.instead) from None
    return None


def end(vmm: "subprocess.Popen[bytes]") -> None:
    vmm.terminate()  # does nothing if it has ended
    with suppress(subprocess.TimeoutExpired):
        vmm.wait(5)
    vmm.kill()


def run_vmm(server: nitrohb.ThreadServer, seconds: float, command: list[str]) -> int:
    """Run the VMM to its end, and return its exit status."""
    started = time.monotonic()
    with subprocess.Popen(command) as vmm:
        try:
            if beat := wait_for_heartbeat(server, vmm, started, seconds):
                passed = time.monotonic() - started
                print(f"booted: {beat.address} after {passed:.1f} s", flush=True)
            while vmm.poll() is None and not signals:
                time.sleep(0.2)
            if not signals:  # Ctrl-C can end the VMM before SIGINT arrives here
                time.sleep(0.5)
        finally:
            end(vmm)
    return vmm.returncode if vmm.returncode >= 0 else 128 - vmm.returncode


def launch(address: str, seconds: float, command: list[str]) -> int:
    # When the block begins, the server listens.
    with nitrohb.serve_in_thread(address) as server:
        status = run_vmm(server, seconds, command)
    return 128 + signals[0] if signals else status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("seconds", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("give the command that starts the VMM")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        return launch(args.address, args.seconds, args.command)
    except (nitrohb.NitrohbError, OSError) as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
