#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Start a VMM, and report when its enclave has booted: a launcher that uses trio.

For example: launch_trio.py unix:enclave.sock 60 qemu-system-x86_64 ...

The time limit applies to the heartbeat only. The VMM can run longer. SIGINT and SIGTERM end it.
"""

import argparse
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

import trio

import nitrohb

Wait = Callable[[float], Awaitable[object]]  # waits at most that many seconds


class Launcher:
    """Starts VMMs, each with the CID or the listen address of its enclave's heartbeat."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.codes: list[int] = []  # the first one is the exit code

    async def run(self, vmms: Mapping[int | str, list[str]]) -> int:
        """Run VMMs to their end, and return an exit code."""
        has_cids = any(isinstance(key, int) for key in vmms)
        address = "vsock::9000" if has_cids else "none"  # launch() adds and removes the others
        serve = partial(nitrohb.serve_heartbeat, address, keep=True)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as outer:  # takes signals until the last VMM has ended
                with self.reporting():
                    async with trio.open_nursery() as nursery:
                        outer.start_soon(self.end_on_signal, signals, nursery.cancel_scope)
                        server = await nursery.start(serve)  # it listens now
                        async with trio.open_nursery() as launches:
                            for key, command in vmms.items():
                                launches.start_soon(self.launch, server, key, command)
                        nursery.cancel_scope.cancel()
                outer.cancel_scope.cancel()
        return self.codes[0] if self.codes else 0

    async def end_on_signal(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            self.codes.append(128 + number)
            scope.cancel()

    @contextmanager
    def reporting(self, *who: int | str) -> Generator[None]:
        """Print errors instead of raising them, so that the other enclaves go on."""
        try:
            yield
        except* (nitrohb.NitrohbError, OSError) as group:  # a nursery raises groups
            self.codes.insert(0, 1)
            for error in group.exceptions:
                print("launch", *who, error, sep=": ", file=sys.stderr)

    async def launch(
        self, server: nitrohb.HeartbeatServer, key: int | str, command: list[str]
    ) -> None:
        cid, address = (key, None) if isinstance(key, int) else (None, key)
        started = trio.current_time()

        def wait(seconds: float) -> Awaitable[nitrohb.Heartbeat]:
            age = trio.current_time() - started  # so a heartbeat of an earlier launch is ignored
            return server.wait_heartbeat(cid=cid, address=address, timeout=seconds, max_age=age)

        with self.reporting(key), ExitStack() as closing:
            if address is not None:
                server.listen(address)
                closing.callback(server.unlisten, address)
            async with trio.open_nursery() as nursery:
                # A cancellation ends the VMM: SIGTERM, and SIGKILL after 5 s.
                run = partial(trio.run_process, command, stdin=None, check=False)
                vmm: trio.Process = await nursery.start(run)
                waiting = trio.CancelScope()  # until the VMM ends
                nursery.start_soon(self.watch, vmm, waiting)
                with waiting:
                    await wait(self.seconds)
                if waiting.cancelled_caught:
                    await self.last_chance(wait, vmm)
                print(f"booted: {key} after {trio.current_time() - started:.1f} s", flush=True)
            if code := vmm.returncode:  # the VMM has ended
                print(f"launch: {key}: the VMM ended with status {code}", file=sys.stderr)
                self.codes.append(code if code > 0 else 128 - code)

    async def watch(self, vmm: trio.Process, waiting: trio.CancelScope) -> None:
        await vmm.wait()
        # Ctrl-C can end the VMM before SIGINT arrives here and cancels this sleep.
        await trio.sleep(0.5)
        waiting.cancel()

    async def last_chance(self, wait: Wait, vmm: trio.Process) -> None:
        """The VMM has ended: take a heartbeat that came just before, or say what came instead."""
        try:
            await wait(0)
        except nitrohb.HeartbeatTimeoutError as late:
            why = f"the VMM ended with status {vmm.returncode} before its heartbeat"
            raise nitrohb.HeartbeatTimeoutError(why, late.instead) from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("seconds", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if not args.command:
        parser.error("give the command that starts the VMM")
    return trio.run(Launcher(args.seconds).run, {args.address: args.command})


if __name__ == "__main__":
    sys.exit(main())
