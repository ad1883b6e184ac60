# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/reference/events.md: its lines, and the bridge to logging."""

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser

from nitrohb import CID_ANY, Heartbeat, VsockAddress
from nitrohb.cli.report import to_json, to_text

from .examples import ROOT

PAGE = ROOT / "docs/reference/events.md"

EVENT = Heartbeat(
    address=VsockAddress(CID_ANY, 9000),
    time=datetime(2026, 11, 22, 21, 5, 8, 205114, tzinfo=UTC),
    peer=VsockAddress(16, 1023),
    listening_seconds=2.5,
    echo_seconds=0.000172,
    echoed=True,
)


def test_the_lines_are_those_that_are_printed() -> None:
    shown = PAGE.read_text().splitlines()
    assert to_text(EVENT) in shown
    assert to_json(EVENT) in shown


def test_the_bridge_to_logging_works(caplog: pytest.LogCaptureFixture) -> None:
    document = Document.parse(str(PAGE), PythonCodeBlockParser())
    for example in document.examples():
        example.evaluate()
    on_event: Any = document.namespace["on_event"]
    with caplog.at_level(logging.INFO):
        on_event(EVENT)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("nitrohb", "heartbeat on vsock::9000")
    assert record.__dict__["event"] == EVENT.to_json()
