# SPDX-License-Identifier: Apache-2.0
"""docs/logs.md shows what is printed, and names every event, its fields and its level."""

import json
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from nitrohb import CID_ANY, Event, Heartbeat, VsockAddress
from nitrohb.cli.output import LEVELS
from nitrohb.cli.report import to_json, to_text
from nitrohb.events import _OWN_FIELDS as FIELDS  # pyright: ignore[reportPrivateUsage]
from tests.test_events import EXAMPLES

DOCS = Path(__file__).parents[2] / "docs" / "logs.md"

EVENT = Heartbeat(
    address=VsockAddress(CID_ANY, 9000),
    time=datetime(2026, 11, 22, 21, 5, 8, 205114, tzinfo=UTC),
    peer=VsockAddress(16, 1023),
    listening_seconds=2.5,
    echo_seconds=0.000172,
    echoed=True,
)


def test_the_lines_are_those_that_are_printed() -> None:
    shown = DOCS.read_text().splitlines()
    assert to_text(EVENT) in shown
    assert to_json(EVENT) in shown


def test_the_table_has_every_event_its_fields_and_its_level() -> None:
    row = r"^\| `(\w+)` \|(.*)\| (\w+) \| (\d) \|$"
    rows = re.findall(row, DOCS.read_text(), re.MULTILINE)
    told = {name: (re.findall(r"\w+", fields), level) for name, fields, level, _ in rows}
    levels = {event.name: json.loads(to_json(event))["level"] for event, _ in EXAMPLES}
    assert told == {kind.name: (list(FIELDS[kind]), levels[kind.name]) for kind in get_args(Event)}
    assert all(LEVELS[level] == int(number) for _, _, level, number in rows)


def test_the_bridge_to_logging_works(caplog: pytest.LogCaptureFixture) -> None:
    document = Document.parse(str(DOCS), PythonCodeBlockParser())
    for example in document.examples():
        example.evaluate()
    on_event: Any = document.namespace["on_event"]
    with caplog.at_level(logging.INFO):
        on_event(EVENT)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("nitrohb", "heartbeat on vsock::9000")
    assert record.__dict__["event"] == EVENT.to_json()
