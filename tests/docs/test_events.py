# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/reference/events.md: its lines."""

from datetime import UTC, datetime

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
