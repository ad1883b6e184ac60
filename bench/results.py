# SPDX-License-Identifier: Apache-2.0
"""The results of a run: medians over its rounds, ratios within each round, and the goals."""

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from statistics import median
from typing import Any, Self

from .contestants import ASYNCIO, BLOCKING, JSON, TEXT, TRIO, C, Peer
from .contestants import NITROHB as NHB
from .delays import ALONE
from .measure import PASS, Metrics, Round

__all__ = ["Goal", "Ratio", "Results", "check_goals", "machine_facts"]


@dataclass(frozen=True)
class Ratio:
    """A ratio of two measurements of the same round: its median over the rounds, and its spread."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)}–{_short(self.high)})"


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


@dataclass
class Results:
    """What a run has measured.

    Attributes:
        machine: Facts about the machine that do not identify it.
        settings: The options of the run.
        rounds: Every measurement, in the order of the rounds.
        rest: What an idle ``nitrohb serve --keep`` did: seconds, wakeups, syscalls.
        long_run: The long run, if there was one.
    """

    machine: dict[str, str | int]
    settings: dict[str, float]
    rounds: list[Round]
    rest: dict[str, float | None] = field(default_factory=dict[str, float | None])
    long_run: Metrics = field(default_factory=dict[str, float])

    @classmethod
    def load(cls, path: str) -> Self:
        """Return the results in a file that ``save()`` wrote."""
        with open(path) as file:
            data: dict[str, Any] = json.load(file)
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})

    def save(self, path: str) -> None:
        """Write everything as JSON, with medians, ratios and goals beside the raw rounds."""
        peers = sorted({key for measured in self.rounds for key in measured})
        base = ALONE if self.about_api else C.key
        others = [peer for peer in peers if peer not in (PASS, base)]
        derived = {
            "medians": {peer: self.medians(peer) for peer in peers},
            f"ratios_to_{base}": {peer: self._ratios(peer, base) for peer in others},
            "goals": [asdict(goal) | {"met": goal.met} for goal in check_goals(self)],
        }
        with open(path, "w") as file:
            json.dump(asdict(self) | derived, file, indent=1)
            file.write("\n")

    @property
    def over_vsock(self) -> bool:
        """Whether it used AF_VSOCK inside User Mode Linux, instead of Unix sockets."""
        return bool(self.settings["vsock"])

    @property
    def about_api(self) -> bool:
        """Whether it measured clients of the HTTP interface, instead of other servers."""
        return bool(self.settings.get("api"))

    @property
    def kind(self) -> str:
        """The end of the names of its files."""
        return "-api" if self.about_api else "-vsock" if self.over_vsock else ""

    def medians(self, peer: str) -> Metrics:
        """Return the median of each measurement of a peer."""
        names = self.rounds[0].get(peer, {})
        return {name: median(measured[peer][name] for measured in self.rounds) for name in names}

    def ratio(self, top: tuple[str, str], bottom: tuple[str, str]) -> Ratio | None:
        """Return one measurement, (peer, name), divided by another; None if either is missing."""
        values: list[float] = []
        for measured in self.rounds:
            over = measured.get(top[0], {}).get(top[1])
            under = measured.get(bottom[0], {}).get(bottom[1])
            if over is None or not under:
                return None
            values.append(over / under)
        return Ratio(median(values), min(values), max(values))

    def beside_c(self, peer: str, name: str) -> Ratio | None:
        """Return a measurement of a peer divided by that of the C server."""
        return self.ratio((peer, name), (C.key, name))

    def _ratios(self, peer: str, base: str) -> dict[str, dict[str, float]]:
        ratios = {name: self.ratio((peer, name), (base, name)) for name in self.medians(peer)}
        return {name: asdict(ratio) for name, ratio in ratios.items() if ratio is not None}


def machine_facts() -> dict[str, str | int]:
    """Return facts about the machine that matter, but do not identify it."""
    return {
        "cpus": os.cpu_count() or 0,
        "cpu": _cpu_model(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "trio": version("trio"),
        "nitrohb": version("nitrohb"),
        "compiler": _first_line("cc", "--version"),
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=10).stdout.split("\n")[0]


@dataclass(frozen=True)
class Goal:
    """A goal, and whether it was met.

    Attributes:
        text: What was wanted.
        figure: What was measured, None if it was not: its median, or the number itself.
        limit: The limit.
        least: Whether the limit is the least that will do, or else the most.
        spread: The figure with its spread, for people.
    """

    text: str
    figure: float | None
    limit: float
    least: bool
    spread: str

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None if it was not measured."""
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.least else self.figure <= self.limit


def check_goals(results: Results) -> list[Goal]:
    """Compare the results with the goals of nitrohb."""
    if results.about_api:
        return []

    def beside(text: str, limit: float, name: str, other: str, *, least: bool = False) -> Goal:
        return _goal(text, results.ratio((NHB.key, name), (other, name)), limit, least)

    def own(text: str, limit: float, name: str) -> Goal:
        figure = results.medians(NHB.key).get(name)
        return Goal(text, figure, limit, False, "" if figure is None else f"{figure:.1f}")

    def to_pass(text: str, limit: float, name: str) -> Goal:
        return _goal(text, results.ratio((NHB.key, name), (PASS, "ready_ms")), limit, False)

    def events(name: str, peer: Peer) -> Goal:
        ratio = results.ratio((peer.key, "rate_16"), (C.key, "rate_16"))
        return _goal(f"heartbeats/s at 16 with events as {name}: ≥ 0.4 × C", ratio, 0.4, True)

    idle = results.ratio((NHB.key, "p50_us_idle"), (NHB.key, "p50_us_bare"))
    sooner = results.ratio((TRIO.key, "ready_ms"), (NHB.key, "ready_ms"))
    return [
        beside("p50, byte at once: ≤ 1.0 × C", 1.0, "p50_us_1", C.key),
        beside("heartbeats/s at 16: ≥ 0.75 × C", 0.75, "rate_16", C.key, least=True),
        beside("heartbeats/s at 16: ≥ 8 × trio", 8, "rate_16", TRIO.key, least=True),
        beside("heartbeats/s at 16: ≥ 4 × asyncio", 4, "rate_16", ASYNCIO.key, least=True),
        beside("p50, byte 200 µs later: ≤ 1.25 × C", 1.25, "p50_us_late", C.key),
        events("JSON", JSON),
        events("text", TEXT),
        _late_goal(results),
        _goal("p50 with idle connections: ≤ 1.15 × without", idle, 1.15, False),
        own("memory per pending connection: ≤ 4.5 KiB", 4.5, "pending_kib"),
        own("resident memory at rest: ≤ 30 MiB", 30, "rss_mib"),
        beside("listening: ≤ 3.0 × python -c pass", 3.0, "ready_ms", PASS),
        to_pass("--version: ≤ 3 × python -c pass", 3.0, "version_ms"),
        to_pass("--help: ≤ 3 × python -c pass", 3.0, "help_ms"),
        to_pass("nitrohb wait, heartbeat already there: ≤ 4 × python -c pass", 4.0, "wait_ms"),
        own("p99 from the echo to a waiter, among 64 others: ≤ 5 ms", 5, "claim_p99_ms"),
        _goal("listening: ≥ 4 × sooner than trio", sooner, 4, True),
        _rest_goal(results),
    ]


def _late_goal(results: Results) -> Goal:
    """Return the goal of the slowest ratio to another Python server."""
    others = (BLOCKING, TRIO, ASYNCIO)
    ratios = [results.ratio((NHB.key, "p50_us_late"), (o.key, "p50_us_late")) for o in others]
    worst = max((ratio for ratio in ratios if ratio), key=lambda ratio: ratio.median, default=None)
    return _goal("p50, byte 200 µs later: ≤ other Python servers", worst, 1.0, False)


def _rest_goal(results: Results) -> Goal:
    calls = results.rest.get("syscalls")
    figure = results.rest.get("wakeups") if calls is None else calls
    what = "wake-ups (no strace)" if calls is None else "system calls"
    spread = "" if figure is None else f"{figure:.0f} {what} in {results.rest['seconds']:g} s"
    return Goal("at rest, without a socket file: no system call", figure, 0, False, spread)


def _goal(text: str, ratio: Ratio | None, limit: float, least: bool) -> Goal:
    return Goal(text, ratio.median if ratio else None, limit, least, str(ratio) if ratio else "")
