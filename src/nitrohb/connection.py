# SPDX-License-Identifier: Apache-2.0
"""One accepted connection: its byte is read, and echoed."""

import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import trio

from .addresses import VsockAddress
from .protocol import ParentHandshake, State
from .sockets import syscalls

_WAITING: Final = State.WAITING  # see protocol.py


@dataclass(slots=True, eq=False)
class Connection:
    """One accepted connection."""

    fd: int  # -1 once it is closed
    peer: VsockAddress | None  # None on a Unix socket
    handshake: ParentHandshake
    echoed: bool = False
    accepted_at: float = 0.0  # in seconds of trio's clock
    received_at: float = 0.0  # when its byte arrived, in seconds since the epoch
    pending_key: Hashable = None  # stands for its peer, once it is pending
    deadline: float = 0.0  # in seconds of trio's clock
    polled_since: int = 0  # in nanoseconds of the monotonic clock

    def advance(self) -> bool:
        """Read the byte and echo it without blocking; return whether the exchange is over."""
        handshake = self.handshake
        if handshake.state is _WAITING:
            if (data := syscalls.try_receive(self.fd)) is None:
                return False
            handshake.receive(data)
            self.received_at = time.time()
        if reply := handshake.reply:
            if (sent := syscalls.try_send(self.fd, reply)) is None:
                return False
            self.echoed = sent
        return True

    async def wait(self) -> None:
        """Wait until :meth:`advance` can go on, or raise ClosedResourceError if it is closed."""
        if self.handshake.state is _WAITING:
            await trio.lowlevel.wait_readable(self.fd)
        else:
            await trio.lowlevel.wait_writable(self.fd)
