# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads from /metrics."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import nitrohb
from nitrohb import RejectReason
from nitrohb.api.metrics import ECHO_BUCKETS
from tests.api.over_http import OverTcp, ask, port_that_is_free
from tests.cli.process import HEARTBEAT, beat, connected
from tests.support import child

from .serving import Server, get, serving, until

CONFIG = Path(__file__).parents[2] / "deploy/prometheus/prometheus.yml"

# Paths that need escapes in a label. Two of them differ in a byte that is not UTF-8.
NAMES = ("hb", 'quo"te\\n', "byte\udc80", "byte\udc81")


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._port = port

    def is_ready(self) -> bool:
        return get(self._port, "/-/ready")[0] == 200

    def query(self, promql: str) -> dict[tuple[str, ...], float]:
        """The current values of an expression, by the values of their labels."""
        status, answer = get(self._port, f"/api/v1/query?query={quote(promql)}")
        assert status == 200, answer
        return {
            tuple(sample["metric"].values()): float(sample["value"][1])
            for sample in answer["data"]["result"]
        }

    def value(self, promql: str) -> float:
        """The one value of an expression without labels."""
        return self.query(promql)[()]

    def alerts(self) -> dict[str, str]:
        """The alerts that are pending or firing now."""
        status, answer = get(self._port, "/api/v1/alerts")
        assert status == 200, answer
        return {alert["labels"]["alertname"]: alert["state"] for alert in answer["data"]["alerts"]}

    def until(self, promql: str, expected: float | Mapping[Any, float]) -> None:
        """Wait until an expression has these values."""
        values = dict(expected) if isinstance(expected, Mapping) else {(): expected}
        until(partial(self.query, promql), values)


@contextmanager
def scraping(directory: Path, configuration: str) -> Generator[Prometheus]:
    """A Prometheus that scrapes and evaluates more often than its configuration says."""
    config = directory / "prometheus.yml"
    often = "global: {scrape_interval: 200ms, evaluation_interval: 200ms}"
    config.write_text(f"{often}\n{configuration}")
    port = port_that_is_free()
    options = (
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    with child(["prometheus", *options]) as process:
        try:
            prometheus = Prometheus(port)
            until(prometheus.is_ready, True)
            yield prometheus
        finally:
            process.terminate()
            process.wait(60)


def example_config(port: int) -> str:
    config = CONFIG.read_text()
    assert config.count('["127.0.0.1:9180"]') == 1
    return config.replace('["127.0.0.1:9180"]', f'["127.0.0.1:{port}"]')


def check_metrics(server: Server) -> None:
    """Lint the metrics, which must give no message."""
    status, metrics = server.get("/metrics")
    assert status == 200
    lint = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True)
    assert (lint.returncode, lint.stdout, lint.stderr) == (0, b"", b"")


def echo_bucket(seconds: float) -> float:
    """The upper bound of the bucket that an echo is in."""
    return next(bound for bound in ECHO_BUCKETS if seconds <= bound)


def label(path: Path) -> str:
    """A listen address as it is in the metrics."""
    return f"unix:{path}".encode(errors="backslashreplace").decode()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in NAMES]


def test_prometheus_has_the_right_values(paths: list[Path], tmp_path: Path) -> None:
    with (
        serving(*paths, options=("--max-pending=2", "--handshake-timeout=3")) as server,
        scraping(tmp_path, example_config(server.port)) as prometheus,
    ):
        check_metrics(server)
        _everything_is_there_from_the_beginning(prometheus, paths)
        _the_silent_are_counted(prometheus, server, paths[0])
        _a_boot_is_timed(prometheus, server, paths[0])
        _heartbeats_are_counted(prometheus, paths)
        _its_figures_are_those_of_the_events(prometheus, server)


def _everything_is_there_from_the_beginning(prometheus: Prometheus, paths: list[Path]) -> None:
    prometheus.until("sum(up)", 1)
    addresses = {(label(path),): 0.0 for path in paths}
    prometheus.until("sum by (address) (nitrohb_heartbeats_total)", addresses)
    reasons = {(reason.value,): 0.0 for reason in RejectReason}
    assert prometheus.query("sum by (reason) (nitrohb_rejections_total)") == reasons
    version = {(nitrohb.__version__,): 1.0}
    assert prometheus.query("sum by (version) (nitrohb_build_info)") == version


def _the_silent_are_counted(prometheus: Prometheus, server: Server, path: Path) -> None:
    """Of three, one is evicted, because two are allowed. Two are rearmed. A fourth times out."""
    with connected(path), connected(path), connected(path):
        prometheus.until("sum(nitrohb_pending)", 2)
        prometheus.until("sum(nitrohb_evictions_total)", 1)
        with OverTcp(server.port) as client:
            assert ask(client, "POST", "/rearm", {}) == (204, b"")
        prometheus.until('sum(nitrohb_rejections_total{reason="rearmed"})', 2)
    with connected(path) as silent:
        prometheus.until("sum(nitrohb_pending)", 1)
        assert silent.recv(1) == b""
    prometheus.until('sum(nitrohb_rejections_total{reason="timeout"})', 1)


def _a_boot_is_timed(prometheus: Prometheus, server: Server, path: Path) -> None:
    """A launcher waits for its enclave."""
    began = time.monotonic()
    with OverTcp(server.port) as launcher:
        launcher.request("POST", "/claims", "{}")
        for _ in range(3):  # by then it waits
            assert server.get("/healthz") == (200, b"ok")
        assert beat(path) == HEARTBEAT
        assert launcher.getresponse().status == HTTPStatus.OK
    took = time.monotonic() - began
    prometheus.until("sum(nitrohb_claim_wait_seconds_count)", 1)
    assert 0 < prometheus.value("sum(nitrohb_claim_wait_seconds_sum)") < took


def _heartbeats_are_counted(prometheus: Prometheus, paths: list[Path]) -> None:
    """Each path gets another number of heartbeats, other bytes, and a silent connection."""
    for number, path in enumerate(paths[1:], 2):
        for _ in range(number):
            assert beat(path) == HEARTBEAT
    for _ in range(2):
        assert beat(paths[1], b"\x00") == b""
    with connected(paths[1]):
        pass
    prometheus.until("sum(nitrohb_disconnections_total)", 1)
    prometheus.until(
        "sum by (address) (nitrohb_heartbeats_total)",
        {(label(path),): float(number) for number, path in enumerate(paths, 1)},
    )
    prometheus.until(
        "sum by (address, reason) (nitrohb_rejections_total) > 0",
        {
            (label(paths[0]), "rearmed"): 2.0,
            (label(paths[0]), "timeout"): 1.0,
            (label(paths[1]), "wrong-byte"): 2.0,
        },
    )
    # If Prometheus first sees a counter at 2, it does not see an increase.
    assert prometheus.value('sum(increase(nitrohb_rejections_total{reason="wrong-byte"}[5m]))') >= 2


def _its_figures_are_those_of_the_events(prometheus: Prometheus, server: Server) -> None:
    counted = {
        name: prometheus.value(f"sum(nitrohb_{name}_total)")
        for name in ("connections", "heartbeats", "rejections", "evictions", "disconnections")
    }
    echoes = [prometheus.value(f"sum(nitrohb_echo_seconds_{of})") for of in ("count", "sum")]
    slowest = prometheus.value("histogram_quantile(1, sum by (le) (nitrohb_echo_seconds_bucket))")
    assert prometheus.query("sum(nitrohb_pending)") == {(): 0}
    check_metrics(server)

    events: list[dict[str, Any]] = [json.loads(line) for line in server.end().splitlines()]
    number = Counter(event["event"] for event in events)
    assert counted == {
        "connections": number["connected"],
        "heartbeats": number["heartbeat"],
        "rejections": number["rejected"],
        "evictions": number["evicted"],
        "disconnections": number["disconnected"],
    }
    seconds = [event["echo_seconds"] for event in events if event["event"] == "heartbeat"]
    assert echoes == pytest.approx([len(seconds), sum(seconds)], abs=1e-4)
    # It has only the bound of the bucket of the slowest echo. Events have rounded microseconds.
    longest = max(seconds)
    assert slowest in {echo_bucket(longest - 1e-6), echo_bucket(longest + 1e-6)}
    prometheus.until("sum(up)", 0)
