# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of the events matches real events."""

import json
from datetime import UTC, datetime
from typing import Any, get_args

import hypothesis.strategies as st
import jsonschema
from hypothesis import given, settings

from deploy.packaging.event_schema import create_schema, meanings
from nitrohb import (
    Address,
    Event,
    Heartbeat,
    HybridAddress,
    InheritedSocket,
    UnixAddress,
    UnixPeer,
    VsockAddress,
)
from nitrohb.cli.report import to_json

SCHEMA = create_schema()
VALIDATOR: Any = jsonschema.Draft202012Validator(
    SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)

numbers = st.integers(0, 2**32 - 1)
names = st.sampled_from(["x", "/a b", "/é", '/"\\', "/run/a:b"])
addresses: st.SearchStrategy[Address] = st.one_of(
    st.builds(VsockAddress, numbers, numbers),
    st.builds(UnixAddress, names),
    st.builds(HybridAddress, names, numbers),
    st.builds(InheritedSocket, st.integers(0, 2**31 - 1)),
)
BYTES = st.integers(0, 255)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "address": addresses,
    "time": st.datetimes(min_value=datetime(1970, 1, 1), timezones=st.just(UTC)),
    "peer": st.builds(VsockAddress, st.integers(0, 2**32 - 2), numbers)
    | st.builds(UnixPeer, st.none() | st.integers(1, 2**22), numbers, numbers),
    "listening_seconds": st.floats(0, 1e9),
    "echo_seconds": st.floats(0, 1e9),
    "problem": st.none() | st.text(),
}


def events(kind: type[Any]) -> st.SearchStrategy[Event]:
    fields = FIELDS | {"byte": BYTES if kind is Heartbeat else st.none() | BYTES}
    given_ones = {name: fields[name] for name in meanings(kind) if name in fields}
    return st.builds(kind, **given_ones)


every_event = st.tuples(*map(events, get_args(Event)))

FEWER = settings(max_examples=max(5, settings().max_examples // 10))  # each of all kinds of events
WRONG = {"time": "now", "address": "tcp:1", "level": "loud"}


def fields_of(name: str) -> list[str]:
    """The fields of an event without the level, which the command line adds."""
    fields = list(SCHEMA["$defs"][name]["properties"])
    assert fields.pop() == "level"
    return fields


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@FEWER
@given(every_event)
def test_real_events_match_it(all_kinds: tuple[Event, ...]) -> None:
    for event in all_kinds:
        form = json.loads(json.dumps(event.to_json()))
        VALIDATOR.validate(form)
        assert list(form) == fields_of(event.name), "in the same order"
        line = json.loads(to_json(event))
        VALIDATOR.validate(line)
        assert list(line) == [*form, "level"], "that is what the command line adds"


@FEWER
@given(every_event, st.data())
def test_wrong_events_do_not_match_it(all_kinds: tuple[Event, ...], data: st.DataObject) -> None:
    for event in all_kinds:
        form = event.to_json()
        missing = data.draw(st.sampled_from(sorted(form)))
        wrong = WRONG | (
            {"peer": 1, "cid": -1, "pid": 0, "uid": -1, "gid": "x"} if "peer" in form else {}
        )
        assert not VALIDATOR.is_valid({name: form[name] for name in form if name != missing})
        for name, value in wrong.items():
            assert not VALIDATOR.is_valid(form | {name: value}), name
        for byte in (None, -1, 256, "0xb7") if isinstance(event, Heartbeat) else ():
            assert not VALIDATOR.is_valid(form | {"byte": byte})
