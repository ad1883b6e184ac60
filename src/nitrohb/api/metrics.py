# SPDX-License-Identifier: Apache-2.0
"""``GET /metrics``: counts events, and writes the counters for Prometheus."""

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

from .. import __version__, events

ECHO_BUCKETS: Final = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 0.1, 1.0, 5.0)
WAIT_BUCKETS: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

_ECHO: Final = "Seconds from a connection to its echo."
_WAIT: Final = "Seconds from a claim to its heartbeat, if the claim came first."
_REJECTED: Final = "Connections that nitrohb closed without an echo, by reason."
_EVICTED: Final = "Pending connections that were closed to make room for new ones."
_PENDING: Final = "Connections that have not sent a byte yet."
_LOST: Final = "Socket files that another process deleted or replaced."

# For each event: its counter, the help text, and the labels, which are attributes of the event.
_COUNTERS: Final[dict[type[events.Event], tuple[str, str, tuple[str, ...]]]] = {
    events.Connected: ("connections", "Connections that were accepted.", ()),
    events.Heartbeat: ("heartbeats", "Heartbeats that arrived.", ("address",)),
    events.Rejected: ("rejections", _REJECTED, ("address", "reason")),
    events.Disconnected: ("disconnections", "Peers that left without sending a byte.", ()),
    events.Evicted: ("evictions", _EVICTED, ()),
    events.Lost: ("socket_file_losses", _LOST, ("address",)),
}

disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the output


class Metrics:
    """Counters, gauges and histograms of one server.

    Attributes:
        registry: Contains all of them.
        wait: Observes how many seconds a claim waited for its heartbeat.
        timeouts: Counts claims that timed out.
    """

    def __init__(self) -> None:
        self.registry = it = CollectorRegistry()
        self._counters = {
            event: Counter(f"nitrohb_{name}", description, labels, registry=it)
            for event, (name, description, labels) in _COUNTERS.items()
        }
        self._pending = Gauge("nitrohb_pending", _PENDING, registry=it)
        self._echo = Histogram("nitrohb_echo_seconds", _ECHO, registry=it, buckets=ECHO_BUCKETS)
        name = "nitrohb_claim_wait_seconds"
        self.wait = Histogram(name, _WAIT, registry=it, buckets=WAIT_BUCKETS)
        self.timeouts = Counter("nitrohb_claim_timeouts", "Claims that timed out.", registry=it)
        build = Info("nitrohb_build", "The version of nitrohb.", registry=it)
        build.info({"version": __version__})
        ProcessCollector(registry=it)  # descriptors, memory, start time

    def count(self, event: events.Event) -> None:
        """Count an event."""
        match event:
            case events.Listening():
                self._start_at_zero(_label(event.address))
            case events.Connected():
                self._pending.inc()
            case events.Heartbeat():
                self._pending.dec()
                self._echo.observe(event.echo_seconds)
            case events.Rejected() | events.Disconnected() | events.Evicted():
                self._pending.dec()
            case events.Unlistened():
                self._remove(_label(event.address))
            case events.Lost() | events.Done():
                pass
        if counter := self._counters.get(type(event)):
            _, _, names = _COUNTERS[type(event)]
            labels = [_label(getattr(event, name)) for name in names]
            (counter.labels(*labels) if labels else counter).inc()

    def _remove(self, address: str) -> None:
        """Remove the counters of an address. Otherwise they would pile up as VMs come and go."""
        self._counters[events.Heartbeat].remove(address)
        self._counters[events.Lost].remove(address)
        for reason in events.RejectReason:
            self._counters[events.Rejected].remove(address, reason)

    def write(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self.registry)

    def _start_at_zero(self, address: str) -> None:
        """Create the counters of an address at 0, so Prometheus sees their first increase."""
        self._counters[events.Heartbeat].labels(address)
        self._counters[events.Lost].labels(address)
        for reason in events.RejectReason:
            self._counters[events.Rejected].labels(address, reason)


def _label(value: object) -> str:
    """Return a value as text, with escapes for bytes that are not UTF-8."""
    return str(value).encode(errors="backslashreplace").decode()
