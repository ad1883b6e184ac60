# SPDX-License-Identifier: Apache-2.0
"""One accepted connection: it identifies its peer, reads its byte and echoes it."""

import struct
import time
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import trio

from .addresses import VsockAddress
from .events import Peer, RejectReason, UnixPeer
from .protocol import ParentHandshake, State
from .sockets import syscalls

_WAITING: Final = State.WAITING  # see protocol.py


class Allowed(NamedTuple):
    """The peers to answer: CIDs on AF_VSOCK, user IDs on Unix sockets."""

    cids: frozenset[int]
    uids: frozenset[int]

    def refusal(self, peer: Peer) -> RejectReason | None:
        """Return why a peer is not answered; None if it is."""
        if isinstance(peer, VsockAddress):
            return None if peer.cid in self.cids else RejectReason.CID
        return None if peer.uid in self.uids else RejectReason.UID


@dataclass(slots=True, eq=False)
class Connection:
    """One accepted connection."""

    fd: int  # -1 once it is closed
    peer: Peer | None  # None on a Unix socket, until identify() is called
    handshake: ParentHandshake
    echoed: bool = False
    accepted_at: float = 0.0  # in seconds of trio's clock
    received_at: float = 0.0  # when its byte arrived, in seconds since the epoch
    pending_key: Hashable = None  # identifies its peer, once it is pending
    deadline: float = 0.0  # in seconds of trio's clock
    polled_since: int = 0  # in nanoseconds of the monotonic clock

    def identify(self) -> Peer:
        """Return the peer. On a Unix socket, the first call makes a system call."""
        if self.peer is None:
            self.peer = _unix_peer(syscalls.peer_credentials(self.fd))
        return self.peer

    def advance(self) -> bool:
        """Read the byte and echo it, without blocking. Return whether the exchange is over."""
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
        """Wait until ``advance()`` can go on, or raise ClosedResourceError if it is closed."""
        if self.handshake.state is _WAITING:
            await trio.lowlevel.wait_readable(self.fd)
        else:
            await trio.lowlevel.wait_writable(self.fd)


@lru_cache(maxsize=64)  # a VMM connects many times
def _unix_peer(credentials: bytes) -> UnixPeer:
    pid, uid, gid = struct.unpack("3I", credentials)
    return UnixPeer(pid or None, uid, gid)
