# SPDX-License-Identifier: Apache-2.0
"""The heartbeat of a Nitro Enclave: bytes in, outcome out. No socket, no clock, no event loop.

Theory of operation
===================

When an enclave boots, its init reaches the initramfs, connects to its parent (CID 3, port 9000),
writes one byte, reads one byte, and closes. Only if the byte that it reads is the byte that it
wrote does it go on to start the application; otherwise it exits, and the enclave is gone. ::

    enclave (init)                          parent (us)
    ──────────────                          ───────────
    connect(3, 9000)  ───────────────────▶  accept
    write  0xB7       ───────────────────▶  read
    read              ◀───────────────────  write 0xB7
    close                                   close

So **each side waits for exactly one byte**, and the two differ only in who speaks first. That is
the whole of :data:`TRANSITIONS`. What follows from it:

* The parent answers as soon as it has the byte. It does not wait for the end of the stream: init
  keeps the connection open while it waits for its echo.
* Only the first byte counts. Whatever follows it is never looked at.
* A connection that ends without a byte is not a heartbeat and not a fault: images from before
  May 2020 connect and close. The parent goes on listening.
* Any other first byte is refused: the connection is closed unanswered, and the parent goes on
  listening. With ``any_byte=True`` the parent echoes whatever comes, as QEMU's device does.
* A valid byte counts as a heartbeat whether or not its echo can be delivered: some images up to
  July 2020 write and close without reading.
* One heartbeat is one boot. A :class:`Latch` remembers for a listen address that its enclave has
  been answered; from then on it answers nobody, until it is reset.

The byte says that init runs: the kernel booted and the initramfs was reached. It does not say that
the application inside is ready.

Sources: init.c in aws-nitro-enclaves-sdk-bootstrap (the enclave's side: CID 3, port 9000, byte
0xB7); hw/nitro/heartbeat.c in QEMU (the parent's side: any CID, port 9000, one byte echoed, then
done); enclave_ready in aws-nitro-enclaves-cli (the parent's side that insists on 0xB7).
"""

from __future__ import annotations

from enum import Enum

from .errors import PeerClosedError, WrongByteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Final

__all__ = [
    "HEARTBEAT",
    "HEARTBEAT_PORT",
    "PARENT_CID",
    "TRANSITIONS",
    "EnclaveHandshake",
    "Input",
    "Latch",
    "ParentHandshake",
    "State",
]

HEARTBEAT: Final = b"\xb7"
"""The byte that both sides send (HEART_BEAT in AWS's init.c)."""

PARENT_CID: Final = 3
"""The CID under which every enclave sees its parent (VSOCK_CID in AWS's init.c)."""

HEARTBEAT_PORT: Final = 9000
"""The vsock port on which the parent listens (VSOCK_PORT in AWS's init.c)."""


class _Hashed(Enum):
    """An Enum whose members hash by identity: Enum's own, in Python, is half of a look-up here."""

    __hash__ = object.__hash__


class Input(_Hashed):
    """What the wire can say."""

    HEARTBEAT = "heartbeat"
    OTHER_BYTE = "other byte"
    END = "end of stream"


class State(_Hashed):
    """Where one connection stands. All but ``WAITING`` are final."""

    WAITING = "waiting"
    HEARTBEAT = "heartbeat"
    WRONG_BYTE = "wrong byte"
    LATE = "late"
    CLOSED = "closed"


TRANSITIONS: Final = {
    (State.WAITING, Input.HEARTBEAT): State.HEARTBEAT,
    (State.WAITING, Input.OTHER_BYTE): State.WRONG_BYTE,
    (State.WAITING, Input.END): State.CLOSED,
}
"""Both sides' moves. Any pair that is not here leaves the state as it is.

There is one more: where the latch has been tripped already, a heartbeat leads to ``LATE`` instead
of ``HEARTBEAT``. Only a parent has a latch that can be: an enclave sends once, and hears once.
"""


# Python 3.11 takes 0.1 us to find a member in its Enum, and a heartbeat asks seven times.
_WAITING: Final = State.WAITING
_ANSWERING: Final = State.HEARTBEAT
_HEARTBEAT: Final = Input.HEARTBEAT
_END: Final = Input.END


class Latch:
    """What the parent remembers about one listen address: armed, or answered.

    Args:
        once: Answer a single heartbeat and no other (a one-shot address). If False, the latch
            stays armed for ever.
        any_byte: Take any byte for a heartbeat, as QEMU's device does.

    Attributes:
        heartbeats: The bytes, 0 to 255, that are a heartbeat.
        answered: Whether the one heartbeat has been answered.
    """

    __slots__ = ("answered", "heartbeats", "once")

    def __init__(self, *, once: bool = True, any_byte: bool = False) -> None:
        self.once = once
        self.heartbeats: Container[int] = range(256) if any_byte else HEARTBEAT
        self.answered = False

    def trip(self) -> bool:
        """A heartbeat has come: say whether it is to be answered, and remember it if so."""
        if self.answered:
            return False
        self.answered = self.once
        return True

    def reset(self) -> None:
        """Forget that a heartbeat was answered, as a device does when its machine is reset."""
        self.answered = False


class _Handshake:
    """One connection, as either side sees it: it waits for one byte.

    Args:
        latch: What is remembered beyond this connection.

    Attributes:
        state: Where the connection stands.
        byte: The first byte that came, 0 to 255, or None.
    """

    __slots__ = ("_latch", "byte", "state")

    def __init__(self, latch: Latch) -> None:
        self._latch = latch
        self.state = State.WAITING
        self.byte: int | None = None

    def receive(self, data: bytes | bytearray) -> State:
        """Take what was read from the wire, ``b""`` for its end, and return the new state.

        In the state ``HEARTBEAT`` the latch has been tripped. Never raises. Input after the first
        byte, or after the end, changes nothing.
        """
        if self.state is _WAITING:
            said = _END
            if data:
                self.byte = data[0]
                said = _HEARTBEAT if data[0] in self._latch.heartbeats else Input.OTHER_BYTE
            self.state = TRANSITIONS[_WAITING, said]
            if said is _HEARTBEAT and not self._latch.trip():
                self.state = State.LATE
        return self.state

    def check(self, peer: str) -> None:
        """Raise what the other side did wrong, if it did.

        Args:
            peer: How a message should call the other side, say ``"the parent"``.

        Raises:
            PeerClosedError: It closed the connection without a byte.
            WrongByteError: Its byte is not the heartbeat.
        """
        if self.state is State.CLOSED:
            raise PeerClosedError(f"{peer} closed the connection without sending a byte")
        if self.state is State.WRONG_BYTE:
            assert self.byte is not None
            raise WrongByteError(
                f"{peer} sent 0x{self.byte:02X}, not the heartbeat 0x{HEARTBEAT[0]:02X}", self.byte
            )


class ParentHandshake(_Handshake):
    """The parent's side of one connection: wait for the byte, then send :attr:`reply`.

    Args:
        latch: The memory of the address on which the connection came in.
    """

    __slots__ = ()

    @property
    def reply(self) -> bytes:
        """What the enclave has to be sent, which is its own byte, or nothing."""
        if self.state is not _ANSWERING or self.byte is None:
            return b""
        return bytes((self.byte,))


class EnclaveHandshake(_Handshake):
    """The enclave's side of one connection: send :attr:`opening`, then wait for the same byte."""

    __slots__ = ()

    opening: Final = HEARTBEAT
    """What the enclave sends first."""

    def __init__(self) -> None:
        super().__init__(Latch(once=False))
