# SPDX-License-Identifier: Apache-2.0
"""The heartbeat of a Nitro Enclave: bytes in, state out. No socket, no clock, no event loop.

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

**Each side waits for exactly one byte.** The two sides differ only in who speaks first.
The rules of the parent follow from that:

* It answers as soon as it has the byte. It does not wait for the end of the stream, because init
  keeps the connection open while it waits for the echo.
* Only the first byte counts. The rest is ignored.
* A connection that ends without a byte is neither a heartbeat nor an error: images from before May
  2020 connect and close. The parent goes on listening.
* It refuses any other first byte: it closes the connection without an answer, and goes on
  listening. With ``any_byte=True`` it echoes every byte, as QEMU's device does.
* A valid byte is a heartbeat even if its echo cannot be delivered: some images up to July 2020
  write and close without reading.
* One heartbeat is one boot. A :class:`Latch` remembers that a listen address has answered its
  enclave. From then on the address answers nobody, until it is rearmed.

A heartbeat means that init runs: the kernel booted and found the initramfs. It does not mean that
the application is ready.

Sources: init.c in aws-nitro-enclaves-sdk-bootstrap (the enclave: CID 3, port 9000, byte 0xB7);
hw/nitro/heartbeat.c in QEMU (the parent: any CID, port 9000, one byte echoed, then done);
enclave_ready in aws-nitro-enclaves-cli (the parent that insists on 0xB7).
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
"""The CID under which every enclave sees its parent (VSOCK_CID in AWS's init.c)."""

HEARTBEAT_PORT: Final = 9000
"""The vsock port on which the parent listens (VSOCK_PORT in AWS's init.c)."""


class State(Enum):
    """Where one connection stands. All but ``WAITING`` are final."""

    WAITING = "waiting"
    HEARTBEAT = "heartbeat"
    WRONG_BYTE = "wrong byte"
    ALREADY_ANSWERED = "already answered"
    CLOSED = "closed"


# Python 3.11 takes 0.1 us to look a member up in its Enum, and a heartbeat needs five look-ups.
_WAITING: Final = State.WAITING
_HEARTBEAT: Final = State.HEARTBEAT


class Latch:
    """The rules of one listen address: what is a heartbeat, and whether to answer one more.

    Args:
        keep: Answer every heartbeat. If false, answer a single one (a one-shot address).
        any_byte: Take any byte for a heartbeat, as QEMU's device does.

    Attributes:
        accepted_bytes: The byte values, 0 to 255, that are a heartbeat.
        answered: Whether the one heartbeat has been answered.
    """

    __slots__ = ("accepted_bytes", "answered", "keep")

    def __init__(self, *, keep: bool = False, any_byte: bool = False) -> None:
        self.keep = keep
        self.accepted_bytes: Container[int] = range(256) if any_byte else frozenset(HEARTBEAT)
        self.answered = False

    def try_answer(self) -> bool:
        """Record a heartbeat, and return whether it must be answered."""
        if self.answered:
            return False
        self.answered = not self.keep
        return True

    def rearm(self) -> None:
        """Forget the answer, as QEMU's device does when its machine is reset."""
        self.answered = False


class _Handshake:
    """One side of one connection: it waits for one byte.

    Attributes:
        state: Where the connection stands.
        byte: The first byte received, 0 to 255, or None.
    """

    __slots__ = ("_latch", "byte", "state")

    def __init__(self, latch: Latch) -> None:
        self._latch = latch
        self.state = State.WAITING
        self.byte: int | None = None

    def receive(self, data: bytes | bytearray) -> State:
        """Take the bytes read from the connection, ``b""`` for its end, and return the new state.

        The latch is set when it becomes ``HEARTBEAT``. Never raises. A final state never changes.
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
    """The parent's side of one connection: wait for the byte, then send :attr:`reply`."""

    __slots__ = ()

    @property
    def reply(self) -> bytes:
        """The enclave's own byte if it must be echoed, else nothing."""
        if self.state is not _HEARTBEAT or self.byte is None:
            return b""
        return bytes((self.byte,))


class EnclaveHandshake(_Handshake):
    """The enclave's side of one connection: send :attr:`opening`, then wait for the same byte."""

    __slots__ = ()

    opening: Final = HEARTBEAT
    """The byte that the enclave sends first."""

    def __init__(self) -> None:
        super().__init__(Latch(keep=True))
