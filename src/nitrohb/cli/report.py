# SPDX-License-Identifier: Apache-2.0
"""Events for people and programs: a line for each, and what they add up to in the end."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Final

from ..addresses import Address
from ..events import (
    Connected,
    Disconnected,
    Done,
    Event,
    Evicted,
    Heartbeat,
    JsonValue,
    Listening,
    Lost,
    Rejected,
)
from ..events import RejectReason as Why
from ..protocol import HEARTBEAT
from .levels import DEBUG, INFO, NAMES, WARNING
from .quoting import quoted

__all__ = ["Reporter", "level_of", "to_json", "to_text"]

_EXPECTED: Final = f"0x{HEARTBEAT[0]:02X}"

_HEARD: Final = "sent a heartbeat"
_PENDING: Final = "had sent nothing yet"

_LEVELS: Final[dict[type[Event], int]] = {
    Listening: INFO,
    Connected: DEBUG,
    Heartbeat: INFO,
    Rejected: WARNING,
    Disconnected: WARNING,
    Evicted: WARNING,
    Lost: WARNING,
    Done: INFO,
}


def level_of(event: Event) -> int:
    """How much an event matters, see :mod:`.levels`."""
    return _LEVELS[type(event)]


def to_json(event: Event) -> str:
    """An event as one line of JSON."""
    return json.dumps(event.to_json() | {"level": NAMES[level_of(event)]})


def to_text(event: Event) -> str:
    """An event as one line of text: the time (UTC), ``nitro_`` and its name, its fields.

    So do the trace events of QEMU's device read, where ``-msg timestamp=on`` is given:
    ``nitro_heartbeat_done`` has no fields, and one ``grep nitro_heartbeat`` finds both. The fields
    are those of the JSON form, as logfmt has them; those that are null are left out.
    """
    fields = event.to_json()
    line = f"{fields.pop('time')} nitro_{fields.pop('event')}"
    for key, value in fields.items():
        if value is not None:
            line += f" {key}={_value(key, value)}"
    return f"{line} level={NAMES[level_of(event)]}"


def _value(key: str, value: JsonValue) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        return f"{value:.6f}"
    if key == "byte":
        return f"0x{value:02x}"
    return str(value).lower()  # a number, or as JSON has it: true, false


class Reporter:
    """Passes events on as they come, and remembers what became of the connections.

    Args:
        show: Takes every event, to show it.
    """

    def __init__(self, show: Callable[[Event], object]) -> None:
        self._show = show
        self._seen = defaultdict[Address, Counter[str]](Counter)
        self._done: set[Address] = set()
        self._last: Heartbeat | None = None

    def __call__(self, event: Event) -> None:
        """Take an event, as ``on_event``."""
        self._show(event)
        seen = self._seen[event.address]
        match event:
            case Connected():
                seen[_PENDING] += 1
            case Heartbeat() | Rejected() | Disconnected() | Evicted():
                seen[_PENDING] -= 1
                seen[_outcome(event)] += 1
                if isinstance(event, Heartbeat):
                    self._last = event
            case Done():
                self._done.add(event.address)
            case Listening() | Lost():
                pass

    def awaited(self) -> str:
        """What is still waited for, in words."""
        where = [str(address) for address in self._seen if address not in self._done]
        return f"a heartbeat on {', '.join(where)}" if where else "nothing more"

    def status(self) -> str:
        """How it stands, in a line: the last heartbeat, how many there were, what is next."""
        waiting = f"waiting for {self.awaited()}"
        if (last := self._last) is None:
            return waiting
        count = sum(seen[_HEARD] for seen in self._seen.values())
        cid = "" if last.cid is None else f" from CID {last.cid}"
        return (
            f"last heartbeat {last.time:%Y-%m-%d %H:%M:%S}Z{cid} on {last.address}, {count} in all;"
            f" {waiting}"
        )

    def listening(self) -> int:
        """On how many addresses the server has begun to listen."""
        return len(self._seen)

    def unheard(self) -> Iterable[tuple[Address, str]]:
        """The addresses without a heartbeat, each with what was seen there instead."""
        for address, seen in self._seen.items():
            if _HEARD not in seen:
                yield address, "; ".join(f"{n} {what}" for what, n in (+seen).most_common())


def _outcome(event: Heartbeat | Rejected | Disconnected | Evicted) -> str:
    """What became of a connection, to be counted."""
    match event:
        case Heartbeat():
            return _HEARD
        case Disconnected():
            return "closed without a byte"
        case Evicted():
            return "had to make room"
        case Rejected():
            return _refusal(event)


def _refusal(event: Rejected) -> str:
    match event.reason:
        case Why.CID:
            return f"came from CID {event.cid}, which is not allowed"
        case Why.WRONG_BYTE:
            return f"sent 0x{event.byte or 0:02X} instead of {_EXPECTED}"
        case Why.TIMEOUT:
            return "sent nothing"
        case Why.ANSWERED:
            return "came too late"
        case Why.REARMED:
            return "came before the address was rearmed"
