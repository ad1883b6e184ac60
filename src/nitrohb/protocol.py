# SPDX-License-Identifier: Apache-2.0
"""The heartbeat of a Nitro Enclave: bytes in, state out. No sockets, no clock, no event loop.

Theory of operation
===================

When an enclave boots, its init connects to the parent (CID 3, port 9000), writes one byte, reads
one byte, and closes. If init reads the byte that it wrote, it starts the application. Otherwise it
exits, and the enclave is gone. ::

    enclave (init)                          parent (nitrohb)
    ──────────────                          ────────────────
    connect(3, 9000)  ───────────────────▶  accept
    write  0xB7       ───────────────────▶  read
    read              ◀───────────────────  write 0xB7
    close                                   close

**Each side waits for exactly one byte.** The only difference is that the enclave sends first.
The rules of the parent:

* It answers as soon as it has the byte. It does not wait for the end of the stream, because init
  keeps the connection open while it waits for the echo.
* Only the first byte counts. The rest is ignored.
* If the first byte is wrong, it closes the connection without an echo, and keeps listening. With
  ``any_byte=True`` it echoes every byte, as QEMU's device does.
* A connection that ends without a byte is neither a heartbeat nor an error, because images from
  before May 2020 connect and close. The parent keeps listening.
* A heartbeat counts even if the echo cannot be delivered, because some images up to July 2020
  write and close without reading.
* One heartbeat means one boot. A ``Latch`` remembers that a one-shot address has answered. After
  that, the address answers no other connection until it is rearmed.

A heartbeat means that the kernel has booted and init runs. It does not mean that the application is
ready.

Sources: init.c in aws-nitro-enclaves-sdk-bootstrap (the enclave: CID 3, port 9000, byte 0xB7);
hw/nitro/heartbeat.c in QEMU (the parent: any CID, port 9000, one byte echoed, then done);
enclave_ready in aws-nitro-enclaves-cli (a parent that accepts only 0xB7).
"""

from __future__ import annotations

from enum import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Final

HEARTBEAT: Final = b"\xb7"
"""The byte that both sides send (HEART_BEAT in AWS's init.c)."""

PARENT_CID: Final = 3
"""The CID of the parent, as every enclave sees it (VSOCK_CID in AWS's init.c)."""

HEARTBEAT_PORT: Final = 9000
"""The vsock port on which the parent listens (VSOCK_PORT in AWS's init.c)."""


class State(Enum):
    """The state of a connection. Every state except ``WAITING`` is final."""

    WAITING = "waiting"
    HEARTBEAT = "heartbeat"
    WRONG_BYTE = "wrong byte"
    ALREADY_ANSWERED = "already answered"
    CLOSED = "closed"


# In Python 3.11, State.WAITING takes 0.1 us. A heartbeat would need five such look-ups.
_WAITING: Final = State.WAITING
_HEARTBEAT: Final = State.HEARTBEAT


class Latch:
    """The rules of one listen address: what a heartbeat is, and whether to answer another one.

    Args:
        keep: Answer every heartbeat. If false, answer only the first (a one-shot address).
        any_byte: Accept every byte as a heartbeat, as QEMU's device does.

    Attributes:
        accepted_bytes: The byte values, 0 to 255, that are a heartbeat.
        answered: Whether a one-shot address has answered its heartbeat.
    """

    __slots__ = ("accepted_bytes", "answered", "keep")

    def __init__(self, *, keep: bool = False, any_byte: bool = False) -> None:
        self.keep = keep
        self.accepted_bytes: Container[int] = range(256) if any_byte else frozenset(HEARTBEAT)
        self.answered = False

    def try_answer(self) -> bool:
        """Record a heartbeat, and return whether to answer it."""
        if self.answered:
            return False
        self.answered = not self.keep
        return True

    def rearm(self) -> None:
        """Forget the answer, so that the address can answer again."""
        self.answered = False


class _Handshake:
    """One side of one connection: it waits for one byte.

    Attributes:
        state: The state of the connection.
        byte: The first byte received, 0 to 255; None if there is none.
    """

    __slots__ = ("_latch", "byte", "state")

    def __init__(self, latch: Latch) -> None:
        self._latch = latch
        self.state = State.WAITING
        self.byte: int | None = None

    def receive(self, data: bytes | bytearray) -> State:
        """Take the bytes read from the connection (``b""`` at its end), and return the new state.

        It never raises.
        """
        if self.state is not _WAITING:
            return self.state
        if not data:
            self.state = State.CLOSED
            return self.state
        self.byte = data[0]
        if self.byte not in self._latch.accepted_bytes:
            self.state = State.WRONG_BYTE
        elif self._latch.try_answer():
            self.state = _HEARTBEAT
        else:
            self.state = State.ALREADY_ANSWERED
        return self.state


class ParentHandshake(_Handshake):
    """The parent's side of one connection: wait for the byte, then send ``reply``."""

    __slots__ = ()

    @property
    def reply(self) -> bytes:
        """The byte to echo; empty if there is nothing to echo."""
        if self.state is not _HEARTBEAT or self.byte is None:
            return b""
        return bytes((self.byte,))


class EnclaveHandshake(_Handshake):
    """The enclave's side of one connection: send ``opening``, then wait for the same byte.

    Attributes:
        opening: The byte 0xB7, which the enclave sends first.
    """

    __slots__ = ()

    opening: bytes = HEARTBEAT

    def __init__(self) -> None:
        super().__init__(Latch(keep=True))
