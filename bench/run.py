# SPDX-License-Identifier: Apache-2.0
"""Measure nitrohb beside alternatives. Writes tables, JSON and an SVG plot."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bench.contestants import PEERS, Peer, build
from bench.delays import Delays
from bench.measure import Bench, Metrics
from bench.plot import draw
from bench.processes import BenchError, Cores, raise_file_limit
from bench.results import Results, machine_facts
from bench.tables import text_report, write_section
from tests.uml import launcher

_SPARE_FILES = 100  # descriptors that a server needs beside its connections
_GUEST = launcher.Options(timeout=3600.0, mem="2G")


def main() -> int:
    """Measure, or read earlier results; print them, and write the files."""
    args = _parse()
    if args.vsock and not launcher.inside():
        return _run_inside()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _terminate)
    try:
        measure = _measure_delays if args.api else _measure
        results = Results.load(args.render) if args.render else measure(args)
        print(text_report(results))
        _write(results, args.output, args.docs)
    except (BenchError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="number of rounds (default: 9)")
    add("--seconds", type=float, default=0.5, help="duration of each load (default: 0.5)")
    add("--idle", type=int, default=5000, help="idle connections to hold (default: 5000)")
    add("--quick", action="store_true", help="try it: 2 short rounds, 500 idle connections")
    add("--vsock", action="store_true", help="use AF_VSOCK, inside User Mode Linux")
    add("--api", action="store_true", help="measure how much HTTP clients delay heartbeats")
    add("--long", type=int, default=0, metavar="N", help="also measure N heartbeats in a row")
    add("--output", default="bench-results", metavar="DIR", help="for results.json and the plot")
    add("--docs", metavar="PATH", help="Markdown file to update; the plot goes beside it")
    add("--render", metavar="JSON", help="show an earlier results.json, measure nothing")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.seconds, args.idle = 2, 0.1, 500
    if args.api and args.vsock:
        parser.error("--api and --vsock exclude each other")
    if args.rounds < 1 or args.idle < 1 or not 0 < args.seconds <= 60:
        parser.error("--rounds, --idle and --seconds must be more than 0, --seconds at most 60")
    return args


def _run_inside() -> int:
    """Boot a kernel, and run this program in it."""
    try:
        return launcher.run([sys.executable, *sys.argv], **_GUEST)
    except launcher.KernelMissingError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def _terminate(number: int, _frame: object) -> None:
    """Raise an exception, so that every ``with`` ends its process."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _measure(args: argparse.Namespace) -> Results:
    cores = Cores.pick()
    idle = min(args.idle, raise_file_limit() - _SPARE_FILES)
    peers = _who_takes_part()
    os.sched_setaffinity(0, {cores.client})
    settings: Metrics = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "idle": idle,
        "cores": len({cores.server, cores.client}),
        "vsock": args.vsock,
    }
    results = Results(machine_facts(), settings, [])
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        bench = Bench(build(directory), cores, directory, args.seconds, idle, args.vsock)
        for number in range(args.rounds):
            _say(f"round {number + 1} of {args.rounds}")
            results.rounds.append(bench.round(peers[:: -1 if number % 2 else 1]))
        _say("at rest")
        results.rest = asdict(bench.at_rest(0.5 if args.quick else 3.0))
        if args.long:
            _say(f"{args.long} heartbeats in a row")
            results.long_run = bench.long_run(args.long)
    return results


def _measure_delays(args: argparse.Namespace) -> Results:
    cores = Cores.pick()
    raise_file_limit()
    os.sched_setaffinity(0, {cores.client})
    settings: Metrics = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "cores": len({cores.server, cores.client}),
        "vsock": False,
        "api": True,
    }
    results = Results(machine_facts(), settings, [])
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        delays = Delays(build(directory), cores, directory, args.seconds)
        for number in range(args.rounds):
            _say(f"round {number + 1} of {args.rounds}")
            results.rounds.append(delays.round(backwards=number % 2 == 1))
    return results


def _who_takes_part() -> list[Peer]:
    for peer in PEERS:
        if peer.needs and shutil.which(peer.needs) is None:
            _say(f"{peer.label}: left out, because {peer.needs} is not installed")
    return [peer for peer in PEERS if not peer.needs or shutil.which(peer.needs)]


def _write(results: Results, directory: str, docs: str | None) -> None:
    os.makedirs(directory, exist_ok=True)
    results.save(os.path.join(directory, f"results{results.kind}.json"))
    plot = None if results.kind else "performance.svg"  # its bars compare over Unix sockets
    if docs:
        write_section(docs, results, plot)
    for place in (directory, os.path.dirname(docs) if docs else None):
        if plot and place is not None:
            with open(os.path.join(place, plot), "w") as file:
                file.write(draw(results))


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
