# SPDX-License-Identifier: Apache-2.0
"""What is counted, and how it is written."""

import os
import resource
import time
from datetime import UTC, datetime

from prometheus_client.parser import text_string_to_metric_families

import nitrohb
from nitrohb import (
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
    UnixAddress,
    UnixPeer,
)
from nitrohb.api.metrics import Metrics

WHERE = UnixAddress("/run/x\udc80")
TIME = datetime(2025, 1, 2, tzinfo=UTC)
PEER = UnixPeer(7, 8, 9)
CONNECTED = Connected(address=WHERE, time=TIME, peer=PEER)


def samples(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.write().decode())
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_nothing_has_happened_yet() -> None:
    metrics = Metrics()
    assert samples(metrics)["nitrohb_connections_total"] == 0
    metrics.count(Listening(address=WHERE, time=TIME))
    assert samples(metrics)["nitrohb_heartbeats_total unix:/run/x\\udc80"] == 0
    assert samples(metrics)["nitrohb_rejections_total unix:/run/x\\udc80 timeout"] == 0
    assert samples(metrics)[f"nitrohb_build_info {nitrohb.__version__}"] == 1
    assert not [name for name in samples(metrics) if "_created" in name]


def test_everything_is_counted() -> None:
    metrics = Metrics()
    events: list[Event] = [
        *[CONNECTED] * 5,
        Heartbeat(
            address=WHERE,
            time=TIME,
            peer=PEER,
            listening_seconds=0.5,
            echo_seconds=6.0,
            echoed=True,
        ),
        Rejected(address=WHERE, time=TIME, peer=PEER, reason=RejectReason.WRONG_BYTE, byte=1),
        Disconnected(address=WHERE, time=TIME, peer=PEER),
        Evicted(address=WHERE, time=TIME, peer=PEER),
        Lost(address=WHERE, time=TIME, replaced=False),
        Done(address=WHERE, time=TIME),
    ]
    for event in events:
        metrics.count(event)
    metrics.wait.observe(0.5)
    metrics.timeouts.inc()
    got = samples(metrics)
    for name in ("evictions", "disconnections"):
        assert got[f"nitrohb_{name}_total"] == 1
    assert got["nitrohb_connections_total"] == 5
    assert got["nitrohb_pending"] == 1
    assert got["nitrohb_claim_timeouts_total"] == 1
    assert got["nitrohb_heartbeats_total unix:/run/x\\udc80"] == 1
    assert got["nitrohb_rejections_total unix:/run/x\\udc80 wrong-byte"] == 1
    assert got["nitrohb_echo_seconds_bucket 5.0"] == 0
    assert got["nitrohb_echo_seconds_bucket +Inf"] == got["nitrohb_echo_seconds_count"] == 1
    assert got["nitrohb_echo_seconds_sum"] == 6
    assert got["nitrohb_claim_wait_seconds_bucket 0.25"] == 0
    assert got["nitrohb_claim_wait_seconds_bucket 0.5"] == 1
    assert got["nitrohb_claim_wait_seconds_bucket 600.0"] == 1


def test_the_process_is_measured() -> None:
    with open(os.devnull):
        there = samples(Metrics())["process_open_fds"]
    got = samples(Metrics())
    assert got["process_open_fds"] == there - 1
    assert got["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < got["process_start_time_seconds"] < time.time()
    assert got["process_resident_memory_bytes"] > 0
