#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A launcher in plain Python: starts a VMM, and reports when its enclave has booted.

    launch.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit applies to the heartbeat only. The VMM can run longer.
"""

import subprocess
import sys
import time

import nitrohb


def wait_for_heartbeat(
    server: nitrohb.ThreadServer, vmm: "subprocess.Popen[bytes]", seconds: float
) -> nitrohb.Heartbeat:
    deadline = time.monotonic() + seconds
    while True:
        status = vmm.poll()  # before the wait, which can still claim its heartbeat
        left = deadline - time.monotonic()
        try:
            return server.wait_heartbeat(timeout=min(0.5, max(left, 0)))
        except nitrohb.HeartbeatTimeoutError as late:
            if status is not None:
                why = f"the VMM ended with status {status} before its heartbeat"
                raise nitrohb.NitrohbError(why) from None
            if left <= 0:
                why = f"no heartbeat within {seconds:g} s"
                raise nitrohb.HeartbeatTimeoutError(why, late.instead) from None


def main() -> int:
    address, seconds, *command = sys.argv[1:]
    try:
        # The server already listens when the VMM starts.
        with nitrohb.serve_in_thread(address) as server, subprocess.Popen(command) as vmm:
            try:
                beat = wait_for_heartbeat(server, vmm, float(seconds))
                print(f"booted: {beat.address} after {beat.listening_seconds:.1f} s", flush=True)
                return vmm.wait()
            finally:
                vmm.terminate()  # does nothing if the VMM has exited
    except (nitrohb.NitrohbError, OSError) as error:
        print(f"launch: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
