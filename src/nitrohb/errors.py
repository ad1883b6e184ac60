# SPDX-License-Identifier: Apache-2.0
"""The errors that nitrohb raises, grouped by cause.

::

    NitrohbError
    ├── UsageError            the arguments are wrong, or the call is not allowed here
    │   └── AddressError      a text or a number is not an address
    ├── PeerError             the peer broke the protocol
    │   ├── PeerClosedError   it closed the connection without sending a byte
    │   └── WrongByteError    it sent a wrong byte
    ├── HeartbeatTimeoutError no heartbeat, or no echo, arrived in time
    ├── NoHeartbeatError      no heartbeat can arrive
    └── UnusableAddressError  the system does not let nitrohb use an address
        ├── ListenError       nitrohb cannot listen on it
        └── ConnectError      nitrohb cannot connect to it

Other exceptions come from a callback, from Python, or from a bug.
"""

from __future__ import annotations

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, TypeVar

    from .events import ConnectionEvent

    ErrorT = TypeVar("ErrorT", bound=BaseException)


_LOOK: Final = "Look at the console of the enclave, and at the events of the server."

KEEP_ADVICE: Final = "Use keep=True. Without it, an address closes after its first heartbeat."


def leaves(group: BaseExceptionGroup[ErrorT]) -> Iterator[ErrorT]:
    """Yield the errors in a group and in its subgroups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)  # pyright: ignore[reportUnknownArgumentType]
        else:
            yield error


def described(error: OSError) -> str:
    """Return the reason of a system error, with its name: ``Permission denied (EACCES)``."""
    name = errno.errorcode.get(error.errno or 0)
    return (error.strerror or str(error)) + (f" ({name})" if name else "")


class NitrohbError(Exception):
    """Base class of the errors that nitrohb raises."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class UsageError(NitrohbError, ValueError):
    """The arguments are wrong, or the call is not allowed here. The message says what to do."""


class AddressError(UsageError):
    """A text or a number is not an address. The message says what was expected."""


class PeerError(NitrohbError):
    """The peer of a connection broke the protocol."""


class PeerClosedError(PeerError):
    """The peer closed the connection without sending a byte."""


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

    It is not a ``TimeoutError``: that is an ``OSError``, and ``except OSError`` would catch it. To
    raise it yourself, write ``HeartbeatTimeoutError(message, instead)``.

    Args:
        message: What did not arrive, and how long you waited. ``str()`` adds what came instead, and
            what to do.
        instead: The connections, as in the attribute. Without it, ``str()`` adds nothing.

    Attributes:
        instead: The connections that came instead, each as its last event: ``Rejected``,
            ``Disconnected`` or ``Evicted``; ``Heartbeat`` if it was claimed, dropped, too old or
            from another CID; ``Connected`` if it is still pending. The message describes them.
    """

    def __init__(self, message: str, instead: tuple[ConnectionEvent, ...] | None = None) -> None:
        super().__init__(message, instead)
        self.instead: tuple[ConnectionEvent, ...] = instead or ()

    def __str__(self) -> str:
        message, instead = self.args
        if instead is None:
            return str(message)
        from collections import Counter  # not needed before the listen

        counted = Counter(event.outcome for event in self.instead).most_common()
        seen = "; ".join(f"{count} {outcome}" for outcome, count in counted)
        return f"{message}: {seen or 'nobody connected'}\n{_LOOK}"


class NoHeartbeatError(NitrohbError):
    """No heartbeat can arrive: the server has ended, or has no address that could receive it.

    Attributes:
        cid: The CID that the caller waited for; None for any, or if the call came after the block
            of ``serve_in_thread()``.
        address: The listen address that the caller waited for; None in the same cases.
        ended: Whether the server has ended.
        unlistened: Whether ``unlisten()`` removed the address.
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
            why = "the server has ended\nStart it again, then wait."
        elif self.address is None:
            why = "the server has no address that could receive it\nAdd one (listen), then wait."
        elif self.unlistened:
            why = "the address was removed from the server\nListen on it again, then wait."
        else:
            why = f"the address is closed\n{KEEP_ADVICE}"
        return f"no heartbeat{sender} can arrive{where}: {why}"


class UnusableAddressError(NitrohbError):
    """The system does not let nitrohb use an address.

    Attributes:
        address: The address as text.
        errno: The error number of the reason, such as ``errno.EACCES``; None if it has none.
        reason: What is wrong, in words.
        remedy: What to do about it, in words.
        see_also: A command that tells more, in words. It can be empty.
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
        advice = f"{self.remedy} {self.see_also}".rstrip()
        return f"cannot {self.doing} {self.address}: {self.reason}\n{advice}"


class ListenError(UnusableAddressError):
    """nitrohb cannot listen on an address. The message says why, and what to do."""

    doing = "listen on"


class ConnectError(UnusableAddressError):
    """nitrohb cannot connect to an address. The message says why, and what to do."""

    doing = "connect to"
