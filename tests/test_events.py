# SPDX-License-Identifier: Apache-2.0
"""Events, and their JSON, which other programs depend on."""

import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nitrohb.addresses import (
    CID_ANY,
    Address,
    HybridAddress,
    InheritedSocket,
    UnixAddress,
    VsockAddress,
)
from nitrohb.events import (
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
    UnixPeer,
    Unlistened,
    format_time,
    utc_now,
)

TIME = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
TIME_TEXT = "2026-03-04T05:06:07.000089Z"
ANY = VsockAddress(CID_ANY, 9000)
VM = UnixAddress("/tmp/vm4.sock")
PEER = VsockAddress(16, 1234)

ON_ANY: dict[str, object] = {"time": TIME_TEXT, "address": "vsock::9000", "cid": None}
OF_PEER = ON_ANY | {"cid": 16, "peer": "vsock:16:1234", "pid": None, "uid": None, "gid": None}
ON_VM = ON_ANY | {"address": "unix:/tmp/vm4.sock"}
PROCESS = {"peer": None, "pid": 7, "uid": 0, "gid": 9}

EXAMPLES: list[tuple[Event, dict[str, object]]] = [
    (Listening(address=ANY, time=TIME), {"event": "listening"} | ON_ANY),
    (Connected(address=ANY, time=TIME, peer=PEER), {"event": "connected"} | OF_PEER),
    (
        Connected(address=VM, time=TIME, peer=UnixPeer(7, 0, 9)),
        {"event": "connected"} | ON_VM | PROCESS,
    ),
    (
        Heartbeat(
            address=ANY,
            time=TIME,
            peer=PEER,
            listening_seconds=1.5,
            echo_seconds=0.25,
            echoed=True,
        ),
        {"event": "heartbeat"}
        | OF_PEER
        | {"byte": 0xB7, "listening_seconds": 1.5, "echo_seconds": 0.25, "echoed": True},
    ),
    (
        Rejected(address=ANY, time=TIME, peer=PEER, reason=RejectReason.WRONG_BYTE, byte=10),
        {"event": "rejected"} | OF_PEER | {"reason": "wrong-byte", "byte": 10},
    ),
    (
        Rejected(
            address=HybridAddress("/vm4", 9000),
            time=TIME,
            peer=UnixPeer(None, 0, 9),
            reason=RejectReason.TIMEOUT,
        ),
        {"event": "rejected"}
        | ON_ANY
        | {"address": "hybrid:/vm4:9000"}
        | PROCESS
        | {"pid": None, "reason": "timeout", "byte": None},
    ),
    (
        Disconnected(address=InheritedSocket(3), time=TIME, peer=PEER),
        {"event": "disconnected"} | OF_PEER | {"address": "fd:3"},
    ),
    (Evicted(address=ANY, time=TIME, peer=PEER), {"event": "evicted"} | OF_PEER),
    (Done(address=ANY, time=TIME), {"event": "done"} | ON_ANY),
    (Unlistened(address=VM, time=TIME), {"event": "unlistened"} | ON_VM),
    (
        Lost(address=VM, time=TIME, replaced=True),
        {"event": "lost"} | ON_VM | {"replaced": True, "problem": None},
    ),
]
"""Every event as the documentation shows it. Users depend on these names."""


@pytest.mark.parametrize(("event", "expected"), EXAMPLES)
def test_json_form(event: Event, expected: dict[str, object]) -> None:
    form = event.to_json()
    assert form == expected
    assert list(form) == list(expected), "the order is part of it: people read these lines"
    assert json.dumps(form) == json.dumps(expected), "equal is not enough: True is not 1, nor 1.0"


def test_every_event_has_an_example() -> None:
    assert {type(event) for event, _ in EXAMPLES} == set(get_args(Event))


def test_reasons_are_spelled_as_documented() -> None:
    reasons = "cid uid wrong-byte timeout already-answered rearmed unlistened"
    assert [*RejectReason] == reasons.split()


def test_events_are_immutable_values() -> None:
    for event, expected in EXAMPLES:
        assert event.cid == expected["cid"]
        assert dataclasses.replace(event) == event
        assert hash(dataclasses.replace(event)) == hash(event)
        for field in dataclasses.fields(event):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(event, field.name, None)
        assert event.to_json() == expected


def test_the_time_of_a_heartbeat_is_that_of_its_byte() -> None:
    beat = next(event for event, _ in EXAMPLES if isinstance(event, Heartbeat))
    assert beat.time is TIME


events_addresses: st.SearchStrategy[Address] = st.one_of(
    st.builds(VsockAddress, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    st.builds(UnixAddress, st.sampled_from(["x", "/a b", "/é", "/\udcff", '/"\\'])),
)
ids = st.integers(0, 2**32 - 1)
peers = st.builds(VsockAddress, st.integers(0, 2**32 - 2), ids) | st.builds(
    UnixPeer, st.none() | st.integers(1, 2**22), ids, ids
)
times = st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC))
seconds = st.floats(0, 1e9)


@given(
    st.builds(
        Heartbeat,
        address=events_addresses,
        time=times,
        peer=peers,
        listening_seconds=seconds,
        echo_seconds=seconds,
        echoed=st.booleans(),
    )
)
def test_json_keeps_every_value(beat: Heartbeat) -> None:
    form = json.loads(json.dumps(beat.to_json()))
    assert form["address"] == str(beat.address)
    assert datetime.fromisoformat(form["time"]) == beat.time
    is_unix = isinstance(beat.peer, UnixPeer)
    assert form["peer"] == (None if is_unix else str(beat.peer))
    process = tuple(beat.peer) if isinstance(beat.peer, UnixPeer) else (None, None, None)
    assert (form["pid"], form["uid"], form["gid"]) == (beat.pid, beat.uid, beat.gid) == process
    assert form["cid"] == beat.cid == getattr(beat.peer, "cid", None)
    assert (form["listening_seconds"], form["echo_seconds"], form["echoed"]) == (
        round(beat.listening_seconds, 6),  # to the microsecond, as the time is
        round(beat.echo_seconds, 6),
        beat.echoed,
    )


def test_a_time_elsewhere_is_written_in_utc_to_the_microsecond() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    assert format_time(datetime(2026, 1, 1, 2, 0, tzinfo=there)) == "2025-12-31T20:30:00.000000Z"


def test_a_loss_is_explained() -> None:
    """The first line says what is wrong, the next what to do."""
    told: set[str] = set()
    for replaced in (False, True):
        for problem in (None, "cannot listen\nDo something."):
            lost = Lost(address=VM, time=TIME, replaced=replaced, problem=problem)
            assert str(VM) in lost.explanation.splitlines()[0]
            assert (problem or "") in lost.explanation
            assert len(lost.explanation.splitlines()) == (3 if problem else 1)
            told.add(lost.explanation)
    assert len(told) == 4


def test_now_is_in_utc() -> None:
    before = datetime.now(UTC)
    now = utc_now()
    assert now.tzinfo is UTC
    assert before <= now <= datetime.now(UTC)
