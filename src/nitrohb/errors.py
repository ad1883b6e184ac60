# SPDX-License-Identifier: Apache-2.0
"""Everything nitrohb raises on purpose, sorted by who has to do something about it.

::

    NitrohbError
    ├── UsageError            the caller asked for something that makes no sense
    │   └── AddressError      ... namely an address that cannot be one
    ├── PeerError             the other side did not keep to the heartbeat exchange
    │   ├── PeerClosedError   ... it closed the connection when its byte was due
    │   ├── WrongByteError    ... it sent another byte
    │   └── PeerTimeoutError  ... it stayed silent for too long
    ├── ServerEndedError      what is waited for cannot come any more
    └── UnusableAddressError  the machine does not let us use an address; says what helps
        ├── ListenError
        └── ConnectError

Any other exception that leaves nitrohb is a bug in nitrohb (or in the caller's own callback).
"""


class NitrohbError(Exception):
    """Base class of every error that nitrohb raises on purpose."""


class UsageError(NitrohbError, ValueError):
    """The caller's misuse: an argument, or a combination of them, that makes no sense."""


class AddressError(UsageError):
    """A text or a number that is no address; the message quotes it and says what was expected."""


class PeerError(NitrohbError):
    """The other side of a connection did not keep to the heartbeat exchange."""


class PeerClosedError(PeerError):
    """The other side closed the connection instead of sending the byte that was due."""


class WrongByteError(PeerError):
    """The other side sent a byte that is not the heartbeat.

    Attributes:
        byte: The byte that came, 0 to 255.
    """

    def __init__(self, message: str, byte: int) -> None:
        super().__init__(message, byte)
        self.message = message
        self.byte = byte

    def __str__(self) -> str:
        return self.message


class PeerTimeoutError(PeerError, TimeoutError):
    """The other side did not answer in time."""


class ServerEndedError(NitrohbError):
    """The server has ended, or has closed the one-shot address, that somebody waits for.

    Attributes:
        cid: The CID whose heartbeat was waited for, or None.
        address: The listen address at which it was waited for, or None.
        ended: Whether the server has ended: no address is open any more.
    """

    def __init__(self, cid: int | None, address: object, ended: bool) -> None:
        super().__init__(cid, address, ended)
        self.cid = cid
        self.address = address
        self.ended = ended

    def __str__(self) -> str:
        sender = "" if self.cid is None else f" from CID {self.cid}"
        where = "" if self.address is None else f" on {self.address}"
        why = (
            "the server has ended"
            if self.ended
            else "the address is closed\n"
            "A one-shot address is closed when it has answered; once=False keeps it open."
        )
        return f"no heartbeat{sender} can come{where} any more: {why}"


class UnusableAddressError(NitrohbError):
    """The environment does not let us use an address.

    Attributes:
        address: The address as it is written.
        errno: The system's error number, or None where the system was not even asked.
        reason: What is wrong, in words.
        remedy: What to do about it, in words.
        see_also: Which command tells more, in words; may be empty.
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
    """An address on which we cannot listen: what failed, why, and what helps."""

    doing = "listen on"


class ConnectError(UnusableAddressError):
    """An address to which we cannot connect: what failed, why, and what helps."""

    doing = "connect to"
