# SPDX-License-Identifier: Apache-2.0
"""The events of a heartbeat server.

Every connection causes one ``Connected``, and then exactly one of ``Heartbeat``, ``Rejected``,
``Disconnected`` and ``Evicted`` (none if the server is cancelled before). Every address causes one
``Listening``. After its last connection comes ``Done`` if it is one-shot and has answered, or
``Unlistened`` if you removed it. If its socket file is deleted or replaced, ``Lost`` comes, and
another ``Listening`` when peers can connect again.

In JSON an event is an object with ``event``, ``time`` (RFC 3339, UTC), ``address`` (as text) and
``cid`` (a number or null), and then its own fields. The events of a connection have ``pid``,
``uid`` and ``gid`` (numbers or null) after ``peer``. Names never change their meaning.
"""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar, Final, NamedTuple, get_args

from .addresses import Address, VsockAddress
from .protocol import HEARTBEAT

JsonValue = str | int | float | bool | None


class RejectReason(StrEnum):
    """Why a connection was closed without an echo."""

    CID = "cid"  # its CID is not in the allow-list; nothing was read from it
    UID = "uid"  # its uid is not in the allow-list; nothing was read from it
    WRONG_BYTE = "wrong-byte"  # its first byte was not the heartbeat
    TIMEOUT = "timeout"  # it sent nothing within the handshake timeout
    ALREADY_ANSWERED = "already-answered"  # the one-shot address has answered another connection
    REARMED = "rearmed"  # the address was rearmed while the connection was pending
    UNLISTENED = "unlistened"  # the address was removed while the connection was pending


class UnixPeer(NamedTuple):
    """The process that connected to a Unix socket, when it connected (SO_PEERCRED of unix(7)).

    Attributes:
        pid: Its process ID; None if this PID namespace hides it. The process might have ended
            since.
        uid: Its effective user ID; 65534 if this user namespace cannot map it.
        gid: Its effective group ID; 65534 if this user namespace cannot map it.
    """

    pid: int | None
    uid: int
    gid: int


Peer = VsockAddress | UnixPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    """The fields of every event.

    Attributes:
        name: The name of the event, such as ``heartbeat``.
        address: The listen address.
        time: When it happened, in UTC.
    """

    name: ClassVar[str]

    address: Address
    time: datetime

    @property
    def cid(self) -> int | None:
        """The CID of the peer; None if the event has no peer, or if the peer has no CID."""
        return None

    def to_json(self) -> dict[str, str | int | float | bool | None]:
        """Return the event as a JSON object: the common fields first, then its own."""
        common: dict[str, JsonValue] = {
            "event": self.name,
            "time": format_time(self.time),
            "address": str(self.address),
            "cid": self.cid,
        }
        return common | {name: _plain(getattr(self, name)) for name in _OWN_FIELDS[type(self)]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(_Event):
    """Peers can connect to the address."""

    name = "listening"


@dataclass(frozen=True, slots=True, kw_only=True)
class _PeerEvent(_Event):
    """An event of one connection.

    Attributes:
        peer: The address of the peer on AF_VSOCK. On a Unix socket, it is null in JSON (see
            ``pid``, ``uid`` and ``gid``), omitted in text, and a ``UnixPeer`` in Python.
    """

    peer: VsockAddress | UnixPeer

    @property
    def outcome(self) -> str:
        """What happened to the connection, in the words of a time-out message."""
        return _OUTCOMES[getattr(self, "reason", self.name)].format(self)

    @property
    def cid(self) -> int | None:
        """The CID of the peer; None on a Unix socket."""
        return self.peer.cid if isinstance(self.peer, VsockAddress) else None

    @property
    def pid(self) -> int | None:
        """The process ID of the peer; None on AF_VSOCK, or if this PID namespace hides it."""
        return self.peer.pid if isinstance(self.peer, UnixPeer) else None

    @property
    def uid(self) -> int | None:
        """The user ID of the peer; None on AF_VSOCK."""
        return self.peer.uid if isinstance(self.peer, UnixPeer) else None

    @property
    def gid(self) -> int | None:
        """The group ID of the peer; None on AF_VSOCK."""
        return self.peer.gid if isinstance(self.peer, UnixPeer) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(_PeerEvent):
    """The server accepted a connection."""

    name = "connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(_PeerEvent):
    """An enclave sent its heartbeat. ``time`` is when the byte was received.

    Attributes:
        byte: The byte, 0 to 255. It is 0xB7, unless the server accepts any byte.
        listening_seconds: Seconds from the first ``Listening`` since the address was added, to the
            end of the echo.
        echo_seconds: Seconds from the accepted connection to the end of the echo.
        echoed: Whether the echo was sent. False if the enclave disconnected, or did not take the
            echo in time.
    """

    name = "heartbeat"

    byte: int = HEARTBEAT[0]
    listening_seconds: float
    echo_seconds: float
    echoed: bool

    @property
    def outcome(self) -> str:
        """What a time-out message says about a heartbeat that the caller did not get."""
        sender = "" if self.cid is None else f" as CID {self.cid}"
        why = "was already claimed or dropped, is too old, or came from another CID"
        return f"sent a heartbeat{sender} that {why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(_PeerEvent):
    """The server closed a connection without an echo.

    Attributes:
        reason: Why it was closed.
        byte: The byte that was read, 0 to 255; None if none was read.
    """

    name = "rejected"

    reason: RejectReason
    byte: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(_PeerEvent):
    """The peer closed the connection without sending a byte."""

    name = "disconnected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted(_PeerEvent):
    """The server closed a pending (silent) connection to make room for another one.

    It was the oldest one of the peer with the most pending connections.
    """

    name = "evicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done(_Event):
    """A one-shot address (without ``keep``) has answered its heartbeat, and is closed."""

    name = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlistened(_Event):
    """The address was removed from the server on request."""

    name = "unlistened"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(_Event):
    """Another process deleted or replaced the socket file of an address, so no peer could connect.

    The server creates the file again as soon as it can, and reports ``Listening``. Connections that
    were already open are still answered.

    Attributes:
        replaced: Whether another file is there now.
        problem: Why the file could not be created again at once, and what to do about it; None if
            it was created.
    """

    name = "lost"

    replaced: bool
    problem: str | None = None

    @property
    def explanation(self) -> str:
        """What happened, in words. The first line says what is wrong."""
        what = "was replaced by another file" if self.replaced else "is gone"
        if self.problem is None:
            return f"the socket file of {self.address} {what}; it was created again"
        return (
            f"the socket file of {self.address} {what}, so no enclave can connect:"
            f" {self.problem}\nnitrohb tries again twice a second."
        )


ConnectionEvent = Connected | Heartbeat | Rejected | Disconnected | Evicted
"""An event of a connection."""

_OUTCOMES: Final[dict[str, str]] = {
    RejectReason.CID: "came from CID {0.cid}, which is not allowed",
    RejectReason.UID: "came from uid {0.uid}, which is not allowed",
    RejectReason.WRONG_BYTE: f"sent 0x{{0.byte:02X}} instead of 0x{HEARTBEAT[0]:02X}",
    RejectReason.TIMEOUT: "sent nothing",
    RejectReason.ALREADY_ANSWERED: "came after another was answered",
    RejectReason.REARMED: "came before the address was rearmed",
    RejectReason.UNLISTENED: "came before the address was removed",
    Connected.name: "had sent nothing yet",
    Disconnected.name: "closed without a byte",
    Evicted.name: "evicted to make room",
}

Event = (
    Listening | Connected | Heartbeat | Rejected | Disconnected | Evicted | Done | Unlistened | Lost
)

# In JSON, all events have the address and the time, and a peer is several fields.
_IN_JSON: Final = {"address": (), "time": (), "peer": ("peer", *UnixPeer._fields)}
_OWN_FIELDS: Final = {
    event: tuple(name for it in fields(event) for name in _IN_JSON.get(it.name, (it.name,)))
    for event in get_args(Event)
}


def utc_now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


def format_time(time: datetime) -> str:
    """Return a time in UTC as text (RFC 3339), to the microsecond."""
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    second = _format_second(utc.year, utc.month, utc.day, utc.hour, utc.minute, utc.second)
    return f"{second}.{utc.microsecond:06}Z"


@lru_cache(maxsize=4)  # isoformat() takes twice as long; a heartbeat has two timestamps
def _format_second(*parts: int) -> str:
    return "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}".format(*parts)


def _plain(value: object) -> JsonValue:
    if isinstance(value, VsockAddress):
        return str(value)
    if isinstance(value, float):  # seconds: to the microsecond, as times are
        return round(value, 6)
    if isinstance(value, UnixPeer):  # its fields follow
        return None
    assert value is None or isinstance(value, str | int)
    return value
