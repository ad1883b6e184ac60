# SPDX-License-Identifier: Apache-2.0
"""The pending connections, which have sent no byte yet, and which of them to evict.

The peer with the most pending connections loses its oldest one. So a peer that has fewer than
another never loses a connection to it, and a flood cannot evict a newcomer. On AF_VSOCK the
hypervisor sets the CID, so a flood cannot pose as several peers.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Pending(Generic[Item]):
    """The pending connections, each with its peer."""

    def __init__(self) -> None:
        # The inner dicts are ordered sets: the oldest connection comes first.
        self._by_peer: dict[Hashable, dict[Item, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        return (connection for held in self._by_peer.values() for connection in held)

    def add(self, peer: Hashable, item: Item) -> None:
        """Add a connection."""
        self._by_peer.setdefault(peer, {})[item] = None
        self._size += 1

    def remove(self, peer: Hashable, item: Item) -> None:
        """Remove a connection that was added."""
        held = self._by_peer[peer]
        del held[item]
        self._size -= 1
        if not held:
            del self._by_peer[peer]

    def victim(self) -> Item | None:
        """Return the oldest connection of the peer that has the most, or None if there is none.

        If several peers have the same number, the one that came first loses.
        """
        if not self._by_peer:
            return None
        most = max(self._by_peer, key=lambda peer: len(self._by_peer[peer]))
        return next(iter(self._by_peer[most]))
