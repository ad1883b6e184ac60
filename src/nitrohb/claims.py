# SPDX-License-Identifier: Apache-2.0
"""Which heartbeat goes to whom: each is handed out once, asked for before or after it has come.

An enclave is known by the address that it came in on and, on AF_VSOCK, by its CID. What nobody has
asked for yet is kept, within bounds: the latest heartbeats of the latest enclaves. No event loop
and no clock here: the caller brings both.
"""

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .addresses import Address
from .events import Heartbeat

__all__ = ["Claims", "Wanted"]

Waiter = TypeVar("Waiter", bound=Hashable)

_Key = tuple[Address, int | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which heartbeats will do.

    Attributes:
        cid: Of the enclave with this CID, or of any.
        address: That came in on this address, or on any.
        max_age: Seconds since it came, at the most. A later one is always young enough.
    """

    cid: int | None = None
    address: Address | None = None
    max_age: float = 60.0

    def matches(self, address: Address, cid: int | None) -> bool:
        """Whether an enclave is one of those that are meant."""
        return self.cid in (None, cid) and self.address in (None, address)


@dataclass(slots=True)
class _Enclave:
    """What is remembered of an enclave: its last heartbeat, and those to be claimed, with times."""

    last: Heartbeat
    unclaimed: deque[tuple[float, Heartbeat]]


class Claims(Generic[Waiter]):
    """The heartbeats that have come, and who waits for the next one.

    Args:
        enclaves: How many enclaves are remembered: the latest to send a heartbeat.
        heartbeats: How many unclaimed heartbeats of each are remembered: the latest.
    """

    def __init__(self, *, enclaves: int = 1024, heartbeats: int = 16) -> None:
        self._most_enclaves = enclaves
        self._most_heartbeats = heartbeats
        # Both in order: the enclave that has beaten last is the last, who waits longest the first.
        self._enclaves: dict[_Key, _Enclave] = {}
        self._waiting: dict[Waiter, Wanted] = {}

    def last(self) -> Iterator[Heartbeat]:
        """The last heartbeat of each enclave, claimed or not, in the order in which they came."""
        return (enclave.last for enclave in self._enclaves.values())

    def waiting(self) -> Iterator[tuple[Waiter, Wanted]]:
        """Who waits for what, whoever waits longest first."""
        return iter(self._waiting.items())

    def arrive(self, beat: Heartbeat, now: float) -> Waiter | None:
        """Take a heartbeat: return who gets it, and waits no more, or keep it if nobody wants it.

        Args:
            beat: The heartbeat.
            now: Seconds of a clock that never goes back.
        """
        enclave = self._remember(beat)
        for waiter, wanted in self._waiting.items():
            if wanted.matches(beat.address, beat.cid):
                del self._waiting[waiter]
                return waiter
        enclave.unclaimed.append((now, beat))
        return None

    def claim(self, wanted: Wanted, now: float) -> Heartbeat | None:
        """Hand out the newest unclaimed heartbeat that will do, if there is one."""
        found = [
            enclave
            for key, enclave in self._enclaves.items()
            if wanted.matches(*key)
            and enclave.unclaimed
            and now - enclave.unclaimed[-1][0] <= wanted.max_age
        ]
        if not found:
            return None
        _, beat = max(found, key=lambda enclave: enclave.unclaimed[-1][0]).unclaimed.pop()
        return beat

    def wait(self, waiter: Waiter, wanted: Wanted) -> None:
        """Let somebody wait for a heartbeat that is still to come."""
        self._waiting[waiter] = wanted

    def give_up(self, waiter: Waiter) -> None:
        """Let somebody wait no more."""
        del self._waiting[waiter]

    def forget(self, address: Address) -> None:
        """Let nobody claim what has come in on an address."""
        for (where, _), enclave in self._enclaves.items():
            if where == address:
                enclave.unclaimed.clear()

    def _remember(self, beat: Heartbeat) -> _Enclave:
        key = (beat.address, beat.cid)
        enclave = self._enclaves.pop(key, None)
        if enclave is None:
            enclave = _Enclave(beat, deque(maxlen=self._most_heartbeats))
        enclave.last = beat
        self._enclaves[key] = enclave
        if len(self._enclaves) > self._most_enclaves:
            del self._enclaves[next(iter(self._enclaves))]
        return enclave
