# SPDX-License-Identifier: Apache-2.0
"""What happened when in a boot, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .machines import Guest, Line


@dataclass
class Timeline:
    """The time line of one boot."""

    title: str
    rows: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])

    def table(self) -> str:
        """The rows in the order of their times, which count from the start of the VM."""
        rows = sorted(self.rows)
        start = next(time for time, what in rows if what == VM_STARTS)
        return "\n".join(f"{time - start:+9.3f} s  {what}" for time, what in rows)


VM_STARTS = "the VM is started"


def timeline(title: str, guest: Guest, events: Sequence[dict[str, Any]]) -> Timeline:
    """Put together what a guest and its server have told. Both clocks must be this machine's."""

    def said(pattern: str) -> Line:
        return guest.words.await_line(pattern)

    rows = [
        (guest.started, VM_STARTS),
        (said("^init: started").time, "its init runs"),
        (said("^init: boot: echoed").time, "its init has the echo"),
        (said("^init: done").time, "its init is done"),
    ]
    for event in events:
        when = datetime.fromisoformat(event["time"]).timestamp()
        echo = event.get("echo_seconds")
        rows.append((when, f"nitrohb: {event['event']}"))
        if echo is not None:
            connected = next(each for each in events if each["event"] == "connected")
            accepted = datetime.fromisoformat(connected["time"]).timestamp()
            rows.append((accepted + echo, "nitrohb: has sent the echo"))
    return Timeline(title, rows)
