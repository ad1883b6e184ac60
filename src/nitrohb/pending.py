# SPDX-License-Identifier: Apache-2.0
"""Who has connected and not spoken yet, and who has to go when there is no more room.

Connections are counted per peer, and whoever holds the most pays for it with the oldest of them.
So a peer that holds less than another never loses a connection to it: a newcomer is not the victim
of somebody else's flood. On AF_VSOCK, where the hypervisor sets the CID, a flood cannot pose as
several peers.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["Pending"]

Connection = TypeVar("Connection", bound=Hashable)


class Pending(Generic[Connection]):
    """The connections that wait for their byte, each with the peer that made it."""

    def __init__(self) -> None:
        # The inner dicts are ordered sets: the oldest connection comes first.
        self._by_peer: dict[Hashable, dict[Connection, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Connection]:
        return (connection for held in self._by_peer.values() for connection in held)

    def add(self, peer: Hashable, connection: Connection) -> None:
        """Note a new connection."""
        self._by_peer.setdefault(peer, {})[connection] = None
        self._size += 1

    def remove(self, peer: Hashable, connection: Connection) -> None:
        """Forget a connection that has been added."""
        held = self._by_peer[peer]
        del held[connection]
        self._size -= 1
        if not held:
            del self._by_peer[peer]

    def victim(self) -> Connection | None:
        """The oldest connection of the peer that holds the most, or None if nobody waits.

        Among peers that hold the same, it is the one that has been here longest.
        """
        if not self._by_peer:
            return None
        most = max(self._by_peer, key=lambda peer: len(self._by_peer[peer]))
        return next(iter(self._by_peer[most]))
