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
    Listening,
    Lost,
    Rejected,
)
from ..events import RejectReason as Why
from ..protocol import HEARTBEAT

__all__ = ["Reporter", "to_json", "to_text"]

_EXPECTED: Final = f"0x{HEARTBEAT[0]:02X}"

_HEARD: Final = "sent a heartbeat"
_PENDING: Final = "had sent nothing yet"


def to_json(event: Event) -> str:
    """An event as one line of JSON."""
    return json.dumps(event.to_json())


def to_text(event: Event) -> str:
    """An event as one line for a person: the time (UTC), what, where, who, and more."""
    words = [f"{event.time:%H:%M:%S}.{event.time.microsecond // 1000:03}Z", f"{event.name:<12}"]
    words.append(str(event.address))
    if event.cid is not None:
        words.append(f"cid {event.cid}")
    if more := _more(event):
        words.append(f"({more})")
    return " ".join(words)


def _more(event: Event) -> str:
    match event:
        case Heartbeat():
            echo = "echoed" if event.echoed else "gone before its echo"
            return (
                f"{echo} {_duration(event.echo_seconds)} after it connected,"
                f" {_duration(event.listening_seconds)} after we began to listen"
            )
        case Rejected():
            return _why(event)
        case Disconnected():
            return "without a byte"
        case Evicted():
            return "to make room, before it had sent anything"
        case Lost():
            return _whereabouts(event)
        case Listening() | Connected() | Done():
            return ""


def _whereabouts(event: Lost) -> str:
    what = "another file is in its place" if event.replaced else "its socket file is gone"
    return what if event.problem is None else f"{what}, and cannot be created again yet"


def _why(event: Rejected) -> str:
    match event.reason:
        case Why.CID:
            return "not an allowed CID"
        case Why.WRONG_BYTE:
            return f"sent 0x{event.byte or 0:02X}, not {_EXPECTED}"
        case Why.TIMEOUT:
            return "sent nothing in time"
        case Why.ANSWERED:
            return "this address has answered another"
        case Why.REARMED:
            return "this address was rearmed"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


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
