# SPDX-License-Identifier: Apache-2.0
"""Counts what a server reports, and writes it down as Prometheus reads it.

An event costs a few additions: the library is only asked when somebody looks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .. import __version__
from ..addresses import Address
from ..events import (
    Connected,
    Disconnected,
    Done,
    Event,
    Evicted,
    Heartbeat,
    Listening,
    Lost,
    Rejected,
    RejectReason,
)

__all__ = ["Metrics"]

ECHO_BUCKETS: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 0.1, 1.0, 5.0)
BOOT_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

_REASONS: Final = {reason.value for reason in RejectReason}


class _Histogram:
    def __init__(self, name: str, what: str, buckets: tuple[float, ...]) -> None:
        self._name = name
        self._what = what
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self) -> HistogramMetricFamily:
        family = HistogramMetricFamily(self._name, self._what)
        bounds = [*map(str, self._bounds), "+Inf"]
        counts = map(float, accumulate(self._counts))
        family.add_metric([], list(zip(bounds, counts, strict=True)), self._sum)
        return family


class Metrics(Collector):
    """What there is to be counted, in a registry of its own.

    Attributes:
        failures: How many connections brought no heartbeat, by address and by what became of them:
            the reason of a rejection, or the name of another event.
    """

    def __init__(self) -> None:
        self._heartbeats = Counter[Address]()
        self.failures = Counter[tuple[Address, str]]()
        self._losses = Counter[Address]()
        self._connections = self._pending = self._claims_in_vain = 0
        self._echo = _Histogram(
            "nitrohb_echo_seconds", "From a connection to its echo.", ECHO_BUCKETS
        )
        self._boot = _Histogram(
            "nitrohb_boot_seconds",
            "From a claim to its heartbeat, where the claim came first: a boot, for its launcher.",
            BOOT_BUCKETS,
        )
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # descriptors, memory, when it started

    def on_event(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Connected():
                self._connections += 1
                self._pending += 1
            case Heartbeat() | Rejected() | Disconnected() | Evicted():
                self._pending -= 1
                self._count_end(event)
            case Listening():
                self._start_at_zero(event.address)
            case Lost():
                self._losses[event.address] += 1
            case Done():
                pass

    def observe_boot(self, seconds: float) -> None:
        """Count a boot that somebody has waited for."""
        self._boot.observe(seconds)

    def count_claim_in_vain(self) -> None:
        """Count a claim whose time was up before its heartbeat came."""
        self._claims_in_vain += 1

    def write(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Everything, for the registry."""
        yield _labelled(
            "nitrohb_heartbeats",
            "Heartbeats that came.",
            ["address"],
            [((str(address),), count) for address, count in self._heartbeats.items()],
        )
        yield _labelled(
            "nitrohb_rejections",
            "Connections that were closed unanswered.",
            ["address", "reason"],
            [
                ((str(at), what), count)
                for (at, what), count in self.failures.items()
                if what in _REASONS
            ],
        )
        yield CounterMetricFamily(
            "nitrohb_evictions", "Connections that had to make room.", self._total(Evicted)
        )
        yield CounterMetricFamily(
            "nitrohb_disconnections", "Connections without a byte.", self._total(Disconnected)
        )
        yield CounterMetricFamily(
            "nitrohb_connections", "Connections that were accepted.", self._connections
        )
        yield GaugeMetricFamily(
            "nitrohb_pending", "Connections that wait for their byte.", self._pending
        )
        yield _labelled(
            "nitrohb_losses",
            "Socket files that others have deleted or replaced.",
            ["address"],
            [((str(address),), count) for address, count in self._losses.items()],
        )
        yield CounterMetricFamily(
            "nitrohb_claims_in_vain",
            "Claims whose time was up before their heartbeat came.",
            self._claims_in_vain,
        )
        yield self._echo.family()
        yield self._boot.family()
        build = GaugeMetricFamily(
            "nitrohb_build_info", "Which nitrohb this is.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build

    def _start_at_zero(self, address: Address) -> None:
        """Have it all from the beginning: Prometheus sees no increase in what was not there."""
        self._heartbeats[address] += 0
        self._losses[address] += 0
        for reason in RejectReason:
            self.failures[address, reason.value] += 0

    def _total(self, event: type[Disconnected | Evicted]) -> int:
        return sum(count for (_, what), count in self.failures.items() if what == event.name)

    def _count_end(self, event: Heartbeat | Rejected | Disconnected | Evicted) -> None:
        match event:
            case Heartbeat():
                self._heartbeats[event.address] += 1
                self._echo.observe(event.echo_seconds)
            case Rejected():
                self.failures[event.address, event.reason.value] += 1
            case Disconnected() | Evicted():
                self.failures[event.address, event.name] += 1


def _labelled(
    name: str, what: str, labels: list[str], values: Iterable[tuple[tuple[str, ...], int]]
) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for of, count in values:
        # What is no UTF-8 in a path is a lone surrogate in Python, which cannot be written. Two
        # paths must not look the same: Prometheus would take the one's count and not the other's.
        family.add_metric([text.encode(errors="backslashreplace").decode() for text in of], count)
    return family
