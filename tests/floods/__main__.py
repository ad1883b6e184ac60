# SPDX-License-Identifier: Apache-2.0
"""Run the list at full size, and print a table: ``python -m tests.floods [unix|vsock] [NAME...]``.

``vsock`` boots User Mode Linux, and runs there. ``--short`` takes the sizes of the tests.
"""

import argparse
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable

from tests.uml import launcher

from .bed import Bed, Figures
from .scenarios import INSIDE_ONLY, SCENARIOS

HOURS = 3600.0
MEMORY = "2G"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(kind: str, scenario: Callable[[Bed], None], full: bool) -> tuple[bool, Figures]:
    """Run a scenario; tell whether it went as it should, and what it measured."""
    with tempfile.TemporaryDirectory() as directory:
        address = "vsock::9000" if kind == "vsock" else f"unix:{directory}/s"
        bed = Bed(address, full=full)
        try:
            scenario(bed)
        except (AssertionError, OSError):
            traceback.print_exc()
            return False, bed.figures
        return True, bed.figures


def print_row(*cells: str) -> None:
    name, load, *numbers = cells
    print(f"{name:26} {load:38}", *(f"{number:>10}" for number in numbers), flush=True)


def run_list(kind: str, names: list[str], full: bool) -> int:
    """Run the list, or what is named of it."""
    print_row("scenario", *Figures.HEADINGS)
    failed = 0
    for scenario in SCENARIOS:
        if names and scenario.__name__ not in names:
            continue
        if scenario in INSIDE_ONLY and not launcher.inside():
            print_row(scenario.__name__, "only inside User Mode Linux")
            continue
        good, figures = run(kind, scenario, full)
        print_row(scenario.__name__ + ("" if good else " FAILED"), *figures.row())
        failed += not good
    return 1 if failed else 0


def run_inside(arguments: list[str]) -> int:
    """Boot a kernel, and be this very program there."""
    command = [sys.executable, "-m", "tests.floods", *arguments]
    env = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return launcher.run(command, timeout=HOURS, mem=MEMORY, env=env)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.floods", description=__doc__)
    parser.add_argument("kind", choices=["unix", "vsock"], nargs="?", default="unix")
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenarios; default: all")
    parser.add_argument("--short", action="store_true", help="the sizes of the tests")
    args = parser.parse_args(arguments)
    if args.kind == "vsock" and not launcher.inside():
        return run_inside(arguments)
    return run_list(args.kind, args.names, full=not args.short)


def leave(number: int, _frame: object) -> None:
    """End by an exception, which ends the children too. A second signal ends it at once."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for each in SIGNALS:
        signal.signal(each, leave)
    sys.exit(main(sys.argv[1:]))
