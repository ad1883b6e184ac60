# SPDX-License-Identifier: Apache-2.0
"""Everything that nitrohb raises on purpose, sorted by who can do something about it.

::

    NitrohbError
    ├── UsageError            the caller asked for something that makes no sense
    │   └── AddressError      a text or a number is not an address
    ├── PeerError             the peer broke the protocol
    │   ├── PeerClosedError   it closed the connection instead of sending its byte
    │   └── WrongByteError    it sent another byte
    ├── HeartbeatTimeoutError no heartbeat, or no echo, arrived in time
    ├── NoHeartbeatError      no heartbeat can arrive any more
    └── UnusableAddressError  the machine does not let us use an address; says what helps
        ├── ListenError
        └── ConnectError

Any other exception that leaves nitrohb is a bug in nitrohb (or in the caller's own callback).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeVar

    from .events import ConnectionEvent

    ErrorT = TypeVar("ErrorT", bound=BaseException)


def leaves(group: BaseExceptionGroup[ErrorT]) -> Iterator[ErrorT]:
    """The errors in a group of groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield error


class NitrohbError(Exception):
    """Base class of every error that nitrohb raises on purpose."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class UsageError(NitrohbError, ValueError):
    """An argument, or a combination of arguments, makes no sense."""


class AddressError(UsageError):
    """A text or a number is not an address; the message quotes it and says what was expected."""


class PeerError(NitrohbError):
    """The peer of a connection broke the protocol."""


class PeerClosedError(PeerError):
    """The peer closed the connection instead of sending its byte."""


class WrongByteError(PeerError):
    """The peer sent a byte that is not the heartbeat.

    Attributes:
        byte: The byte, 0 to 255.
    """

    def __init__(self, message: str, byte: int) -> None:
        super().__init__(message, byte)
        self.message = message
        self.byte = byte

    def __str__(self) -> str:
        return self.message


class HeartbeatTimeoutError(NitrohbError):
    """No heartbeat, or no echo, arrived in time.

    It is not a TimeoutError: that is an OSError, so that ``except OSError`` would catch it.

    Attributes:
        instead: The connections that came instead, each as the last event it had: Rejected,
            Disconnected, Evicted; Heartbeat if that was claimed already, or is of another CID;
            Connected if it is still silent. The message has them in words.
    """

    def __init__(self, message: str, instead: tuple[ConnectionEvent, ...] | None = None) -> None:
        super().__init__(message, instead)
        self.instead: tuple[ConnectionEvent, ...] = instead or ()

    def __str__(self) -> str:
        message, instead = self.args
        if instead is None:
            return str(message)
        from collections import Counter  # the console script listens before it is loaded

        counted = Counter(event.outcome for event in self.instead).most_common()
        seen = "; ".join(f"{count} {outcome}" for outcome, count in counted)
        return f"{message}: {seen or 'nobody connected'}"


class NoHeartbeatError(NitrohbError):
    """No heartbeat can arrive any more: the server has ended, or has closed the address.

    Attributes:
        cid: The CID that was waited for, or None.
        address: The listen address that was waited for, or None.
        ended: Whether the server has ended.
        unlistened: Whether the address was removed by ``unlisten()``.
    """

    def __init__(
        self, cid: int | None, address: object, ended: bool, unlistened: bool = False
    ) -> None:
        super().__init__(cid, address, ended, unlistened)
        self.cid = cid
        self.address = address
        self.ended = ended
        self.unlistened = unlistened

    def __str__(self) -> str:
        sender = "" if self.cid is None else f" from CID {self.cid}"
        where = "" if self.address is None else f" on {self.address}"
        if self.ended:
            why = "the server has ended"
        elif self.address is None:
            why = "no address is open on which it could arrive"
        elif self.unlistened:
            why = "the address was removed from the server\nListen on it again, then wait."
        else:
            why = (
                "the address is closed\n"
                "A one-shot address closes when it has answered. Use keep=True to keep it open."
            )
        return f"no heartbeat{sender} can arrive{where} any more: {why}"


class UnusableAddressError(NitrohbError):
    """The machine does not let us use an address.

    Attributes:
        address: The address as text.
        errno: The error number of the system call; None if there was no call.
        reason: What is wrong, in words.
        remedy: What to do about it, in words.
        see_also: Which command tells more, in words; can be empty.
    """

    doing = "use"

    def __init__(
        self, address: str, errno: int | None, reason: str, remedy: str, see_also: str = ""
    ) -> None:
        super().__init__(address, errno, reason, remedy, see_also)
        self.address = address
        self.errno = errno
        self.reason = reason
        self.remedy = remedy
        self.see_also = see_also

    def __str__(self) -> str:
        what_helps = f"{self.remedy} {self.see_also}".rstrip()
        return f"cannot {self.doing} {self.address}: {self.reason}\n{what_helps}"


class ListenError(UnusableAddressError):
    """An address cannot be listened on: what failed, why, and what helps."""

    doing = "listen on"


class ConnectError(UnusableAddressError):
    """An address cannot be connected to: what failed, why, and what helps."""

    doing = "connect to"
