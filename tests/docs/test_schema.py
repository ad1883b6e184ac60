# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of the events is that of the real ones."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import given

from docs._ext.event_schema import create_schema, meanings
from nitrohb import (
    Address,
    Connected,
    Disconnected,
    Event,
    Heartbeat,
    HybridAddress,
    InheritedSocket,
    Rejected,
    UnixAddress,
    VsockAddress,
)
from nitrohb.cli.report import to_json
from tests.cli.process import NITROHB, nitrohb
from tests.test_events import EXAMPLES

from .examples import ROOT, blocks

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
    "peer": st.none() | st.builds(VsockAddress, st.integers(0, 2**32 - 2), numbers),
    "listening_seconds": st.floats(0, 1e9),
    "echo_seconds": st.floats(0, 1e9),
    "problem": st.none() | st.text(),
}


def events(kind: type[Any]) -> st.SearchStrategy[Event]:
    fields = FIELDS | {"byte": BYTES if kind is Heartbeat else st.none() | BYTES}
    given_ones = {name: fields[name] for name in meanings(kind) if name in fields}
    return st.builds(kind, **given_ones)


any_event = st.one_of([events(kind) for kind in get_args(Event)])


def fields_of(name: str) -> list[str]:
    """What an event has by itself: all but the level, which the command line adds."""
    fields = list(SCHEMA["$defs"][name]["properties"])
    assert fields.pop() == "level"
    return fields


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@given(any_event)
def test_real_events_are_as_it_says(event: Event) -> None:
    form = json.loads(json.dumps(event.to_json()))
    VALIDATOR.validate(form)
    assert list(form) == fields_of(event.name), "in the same order"


@pytest.mark.parametrize("form", [form for _, form in EXAMPLES])
def test_the_examples_are_as_it_says(form: dict[str, object]) -> None:
    VALIDATOR.validate(form)


@given(any_event, st.data())
def test_an_event_that_lacks_something_is_none(event: Event, data: st.DataObject) -> None:
    form = event.to_json()
    del form[data.draw(st.sampled_from(sorted(form)))]
    assert not VALIDATOR.is_valid(form)


@given(events(Connected) | events(Rejected) | events(Disconnected))
def test_an_event_with_something_else_in_it_is_none(event: Event) -> None:
    form = event.to_json()
    for name, wrong in [("time", "now"), ("address", "tcp:1"), ("peer", 1), ("cid", -1)]:
        assert not VALIDATOR.is_valid(form | {name: wrong})


def test_what_the_interface_is_shown_to_send_is_as_it_says() -> None:
    shown = [
        json.loads(block.text)
        for block in blocks((ROOT / "docs/api.md").read_text())
        if block.kind == "json"
    ]
    assert [event["event"] for event in shown] == ["lost"]
    for event in shown:
        VALIDATOR.validate(event)
        assert list(event) == fields_of(event["event"])


def test_what_the_script_prints_is_as_it_says(tmp_path: Path) -> None:
    command = ("-l", f"unix:{tmp_path}/s", "--format", "json", "--", *NITROHB, "send")
    code, _, printed = nitrohb("run", *command, f"unix:{tmp_path}/s")
    lines = [json.loads(line) for line in printed.splitlines()]
    assert (code, len(lines)) == (0, 4)
    for line in lines:
        VALIDATOR.validate(line)
        assert list(line) == [*fields_of(line["event"]), "level"]


@given(any_event)
def test_the_level_is_what_the_command_line_adds(event: Event) -> None:
    line = json.loads(to_json(event))
    VALIDATOR.validate(line)
    assert list(line) == list(SCHEMA["$defs"][event.name]["properties"])
    assert not VALIDATOR.is_valid(line | {"level": "loud"})


@given(events(Heartbeat), st.sampled_from([None, -1, 256, "0xb7"]))
def test_a_heartbeat_has_a_byte(event: Event, wrong: object) -> None:
    assert not VALIDATOR.is_valid(event.to_json() | {"byte": wrong})
