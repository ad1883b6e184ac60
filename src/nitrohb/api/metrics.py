# SPDX-License-Identifier: Apache-2.0
"""``GET /metrics``: counts the events of a server, in Prometheus' text format."""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

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

ECHO_BUCKETS: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 0.1, 1.0, 5.0)
BOOT_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double what is scraped


class Metrics:
    """Counters, gauges and histograms of one server.

    Attributes:
        registry: All of them.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._heartbeats = Counter(
            "nitrohb_heartbeats", "Heartbeats that arrived.", ["address"], registry=registry
        )
        self._rejections = Counter(
            "nitrohb_rejections",
            "Connections that were closed without an answer.",
            ["address", "reason"],
            registry=registry,
        )
        self._evictions = Counter(
            "nitrohb_evictions",
            "Waiting connections that were closed in favour of new ones.",
            registry=registry,
        )
        self._disconnections = Counter(
            "nitrohb_disconnections", "Peers that left without sending a byte.", registry=registry
        )
        self._connections = Counter(
            "nitrohb_connections", "Connections that were accepted.", registry=registry
        )
        self._pending = Gauge(
            "nitrohb_pending", "Connections that have not sent their byte yet.", registry=registry
        )
        self._losses = Counter(
            "nitrohb_losses",
            "Socket files that another program deleted or replaced.",
            ["address"],
            registry=registry,
        )
        self._claim_timeouts = Counter(
            "nitrohb_claims_in_vain", "Claims that timed out.", registry=registry
        )
        self._echo = Histogram(
            "nitrohb_echo_seconds",
            "From a connection to its echo.",
            buckets=ECHO_BUCKETS,
            registry=registry,
        )
        self._boot = Histogram(
            "nitrohb_boot_seconds",
            "From a claim to its heartbeat, if the claim came first: how long launchers wait.",
            buckets=BOOT_BUCKETS,
            registry=registry,
        )
        Info("nitrohb_build", "The version of nitrohb.", registry=registry).info(
            {"version": __version__}
        )
        ProcessCollector(registry=registry)  # descriptors, memory, when it started

    def count(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Connected():
                self._connections.inc()
                self._pending.inc()
            case Heartbeat() | Rejected() | Disconnected() | Evicted():
                self._pending.dec()
                self._count_end(event)
            case Listening():
                self._start_at_zero(event.address)
            case Lost():
                self._losses.labels(_label(event.address)).inc()
            case Done():
                pass

    def observe_boot(self, seconds: float) -> None:
        """Record how long a claim waited for its heartbeat."""
        self._boot.observe(seconds)

    def count_claim_timeout(self) -> None:
        """Count a claim that timed out."""
        self._claim_timeouts.inc()

    def write(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self.registry)

    def _start_at_zero(self, address: Address) -> None:
        """Create the counters of an address: Prometheus sees no increase in a new counter."""
        label = _label(address)
        self._heartbeats.labels(label)
        self._losses.labels(label)
        for reason in RejectReason:
            self._rejections.labels(label, reason.value)

    def _count_end(self, event: Heartbeat | Rejected | Disconnected | Evicted) -> None:
        match event:
            case Heartbeat():
                self._heartbeats.labels(_label(event.address)).inc()
                self._echo.observe(event.echo_seconds)
            case Rejected():
                self._rejections.labels(_label(event.address), event.reason.value).inc()
            case Disconnected():
                self._disconnections.inc()
            case Evicted():
                self._evictions.inc()


def _label(address: Address) -> str:
    """Return an address as UTF-8 can have it.

    Python reads other bytes of a path as lone surrogates. Different paths get different labels,
    because Prometheus drops one of two counters that have the same label.
    """
    return str(address).encode(errors="backslashreplace").decode()
