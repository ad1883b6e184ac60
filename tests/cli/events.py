# SPDX-License-Identifier: Apache-2.0
"""Events for the tests of the console script."""

from datetime import UTC, datetime
from typing import Any, TypeVar

from nitrohb import CID_ANY, Done, Heartbeat, Listening, Lost, Unlistened, VsockAddress

ANY = VsockAddress(CID_ANY, 9000)
TIME = datetime(2026, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)

T = TypeVar("T")


def made(kind: type[T], *, cid: int = 16, **fields: Any) -> T:
    """An event on vsock::9000 at TIME with default fields, unless other fields are given."""
    always: dict[str, Any] = {"address": ANY, "time": TIME}
    if kind not in (Done, Listening, Lost, Unlistened):
        always["peer"] = VsockAddress(cid, 1234)
    if kind is Heartbeat:
        always |= {"listening_seconds": 75.04, "echo_seconds": 0.00005, "echoed": True}
    return kind(**always | fields)
