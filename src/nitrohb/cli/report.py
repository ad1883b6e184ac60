# SPDX-License-Identifier: Apache-2.0
"""Write events as lines, and explain at the end what happened on each address."""

import json
import shlex
import signal
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Final

from .. import events
from ..addresses import CID_ANY, Address, HybridAddress, UnixAddress, VsockAddress
from ..protocol import PARENT_CID
from ..remedies import LOOPBACK_CID, who_may_connect
from .lines import json_line, text_line
from .output import DEBUG, INFO, WARNING, Output, quoted

_LEVELS: Final[dict[type[events.Event], int]] = {
    events.Listening: INFO,
    events.Connected: DEBUG,
    events.Heartbeat: INFO,
    events.Rejected: WARNING,
    events.Disconnected: WARNING,
    events.Evicted: WARNING,
    events.Lost: WARNING,
    events.Done: INFO,
    events.Unlistened: INFO,
}


def level_of(event: events.Event) -> int:
    """The level of an event: see ``LEVELS`` in ``output``."""
    return _LEVELS[type(event)]


def to_json(event: events.Event) -> str:
    """An event as one line of JSON."""
    match event:
        case events.Connected():
            return _CONNECTED_JSON % _common_json(event)
        case events.Heartbeat():
            return _HEARTBEAT_JSON % (
                *_common_json(event),
                event.byte,
                round(event.listening_seconds, 6),
                round(event.echo_seconds, 6),
                "true" if event.echoed else "false",
            )
        case _:
            return json_line(event.to_json(), level_of(event))


def to_text(event: events.Event) -> str:
    """An event as one line of text."""
    match event:
        case events.Connected():
            return f"{_common_text(event)} level=debug"
        case events.Heartbeat():
            return _HEARTBEAT_TEXT % (
                _common_text(event),
                event.byte,
                event.listening_seconds,
                event.echo_seconds,
                "true" if event.echoed else "false",
            )
        case _:
            return text_line(event.to_json(), level_of(event))


# Nearly all events are of these two kinds. These formats take a third of the time of json_line()
# and text_line(), and make the same lines (tests/cli/test_report.py).
_CONNECTED_JSON: Final = '{"event": "connected", "time": "%s", "address": %s, %s, "level": "debug"}'
_HEARTBEAT_JSON: Final = (
    '{"event": "heartbeat", "time": "%s", "address": %s, %s, "byte": %d, "listening_seconds": %r,'
    ' "echo_seconds": %r, "echoed": %s, "level": "info"}'
)
_HEARTBEAT_TEXT: Final = (
    "%s byte=0x%02x listening_seconds=%.6f echo_seconds=%.6f echoed=%s level=info"
)


def _common_json(event: events.Connected | events.Heartbeat) -> tuple[str, str, str]:
    peer = event.peer
    if isinstance(peer, VsockAddress):
        shown = f'"cid": {peer.cid}, "peer": "{peer}", "pid": null, "uid": null, "gid": null'
    else:
        shown = _unix_peer_json(peer)
    return events.format_time(event.time), _address_json(event.address), shown


def _common_text(event: events.Connected | events.Heartbeat) -> str:
    time, peer = events.format_time(event.time), event.peer
    if isinstance(peer, VsockAddress):
        shown = f"cid={peer.cid} peer={peer}"
    else:
        shown = _unix_peer_text(peer)
    return f"{time} nitro_{event.name} {_address_text(event.address)} {shown}"


@lru_cache(maxsize=64)
def _unix_peer_json(peer: events.UnixPeer) -> str:
    return json.dumps({"cid": None, "peer": None, **peer._asdict()})[1:-1]


@lru_cache(maxsize=64)
def _unix_peer_text(peer: events.UnixPeer) -> str:
    return " ".join(f"{key}={value}" for key, value in peer._asdict().items() if value is not None)


@lru_cache(maxsize=64)
def _address_json(address: Address) -> str:
    return json.dumps(str(address))


@lru_cache(maxsize=64)
def _address_text(address: Address) -> str:
    return f"address={quoted(str(address))}"


_SILENT: Final = "had sent nothing yet"


class Summary:
    """Counts the outcomes of the connections on each address.

    Attributes:
        access: Who can connect to each socket file, and how to let others in (or None).
    """

    def __init__(self) -> None:
        self._seen = defaultdict[Address, Counter[str]](Counter)
        self._booted: set[Address] = set()
        self._done: set[Address] = set()
        self.access: dict[Address, tuple[str, str | None]] = {}
        self._last: events.Heartbeat | None = None
        self._heartbeats = 0

    def on_event(self, event: events.Event) -> None:
        """Take an event."""
        seen = self._seen[event.address]
        match event:
            case events.Connected():
                seen[_SILENT] += 1
            case events.Heartbeat() | events.Rejected() | events.Disconnected() | events.Evicted():
                seen[_SILENT] -= 1
                seen[event.outcome] += 1
                if isinstance(event, events.Heartbeat):
                    self._booted.add(event.address)
                    self._last = event
                    self._heartbeats += 1
            case events.Done():
                self._done.add(event.address)
            case events.Unlistened():
                del self._seen[event.address]
                self._booted.discard(event.address)
            case events.Listening(address=UnixAddress() | HybridAddress() as address):
                with suppress(OSError):  # another process has deleted it already
                    self.access[address] = who_may_connect(address.path)
            case events.Lost(problem=str()):
                self.access.pop(event.address, None)
            case events.Listening() | events.Lost():
                pass

    def awaited(self) -> str:
        """What nitrohb still waits for, as words for a message."""
        where = [str(address) for address in self._seen if address not in self._done]
        if not self._seen:
            return "an address"
        return f"a heartbeat on {', '.join(where)}" if where else "nothing more"

    def status(self) -> str:
        """One line: the last heartbeat, the number of heartbeats, and what nitrohb waits for."""
        waiting = f"waiting for {self.awaited()}"
        if (last := self._last) is None:
            return waiting
        cid = "" if last.cid is None else f" from CID {last.cid}"
        return (
            f"last heartbeat {last.time:%Y-%m-%d %H:%M:%S}Z{cid} on {last.address},"
            f" {self._heartbeats} in all; {waiting}"
        )

    def all_listen(self, addresses: int) -> bool:
        """Whether at least this many addresses have begun to listen."""
        return len(self._seen) >= addresses

    def have_all_booted(self, addresses: int) -> bool:
        """Whether at least this many addresses listen, and each of them has had a heartbeat."""
        return self.all_listen(addresses) and not list(self.without_heartbeat())

    def without_heartbeat(self) -> Iterable[tuple[Address, str]]:
        """The addresses without a heartbeat, each with what arrived instead."""
        for address, seen in self._seen.items():
            if address not in self._booted:
                yield address, "; ".join(f"{n} {what}" for what, n in (+seen).most_common())


def explain_timeout(summary: Summary, timeout: float, output: Output) -> None:
    """Print that the time is up, and what arrived on each address instead of a heartbeat."""
    without_heartbeat = list(summary.without_heartbeat())
    if not without_heartbeat:  # only with --keep
        output.print_err(f"nitrohb: timed out after {timeout:g} s")
    for address, seen in without_heartbeat:
        text = _explain(address, seen, f"within {timeout:g} s")
        remedies: Iterable[str | None] = ["Look at the events of these connections."]
        if not seen:
            access, remedy = summary.access.get(address, ("", None))
            text += f"; {access}" if access else ""
            check = "Check that the enclave is running and that it can reach this host."
            remedies = (check, remedy, *_how_to_test(address))
        output.print_err("\n".join([text, *filter(None, remedies)]))


def explain_end(summary: Summary, status: int, remedy: str, output: Output) -> None:
    """Print that the command ended too early, and what arrived on each address until then."""
    when = f"before the command ended with status {_status(status)}"
    for address, seen in summary.without_heartbeat():
        output.print_err(f"{_explain(address, seen, when)}\n{remedy}")


def _explain(address: Address, seen: str, when: str) -> str:
    return f"nitrohb: no heartbeat on {address} {when}: {seen or 'nobody connected'}"


def _how_to_test(address: Address) -> Iterable[str]:
    """How to test an address by hand, as lines; nothing for an inherited socket."""
    written = shlex.quote(str(address))
    match address:
        case VsockAddress(cid, port):
            parent = VsockAddress(PARENT_CID if cid in (CID_ANY, LOOPBACK_CID) else cid, port)
            where = f"Test it from inside the enclave: nitrohb send {parent}"
        case UnixAddress() | HybridAddress():
            where = f"Test it from this machine: nitrohb send {written}"
        case _:
            return ()
    return where, f"Check this machine: nitrohb doctor -l {written}"


def _status(status: int) -> str:
    """An exit status, with the name of the signal if it can stand for one."""
    try:
        return f"{status} ({signal.Signals(status - 128).name})"
    except ValueError:
        return str(status)
