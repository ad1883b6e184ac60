# SPDX-License-Identifier: Apache-2.0
"""Decides which waiter gets which heartbeat. Each heartbeat is claimed once.

``HeartbeatStore`` has the rules, without an event loop or a clock. ``ClaimQueue`` applies them to
trio tasks. An enclave is identified by its listen address and, on AF_VSOCK, by its CID.
"""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import trio

from .addresses import Address
from .errors import NoHeartbeatError
from .events import ConnectionEvent, Heartbeat

WaiterT = TypeVar("WaiterT", bound=Hashable)

_Key = tuple[Address, int | None]

_NOTED: Final = 16  # connections per address that a time-out reports


@dataclass(frozen=True, slots=True)
class ClaimFilter:
    """Which heartbeats a waiter accepts.

    Attributes:
        cid: Only those from this CID; None for any.
        address: Only those on this listen address; None for any.
        max_age: The maximum age in seconds.
    """

    cid: int | None = None
    address: Address | None = None
    max_age: float = 60.0

    def matches(self, address: Address, cid: int | None) -> bool:
        """Whether it accepts heartbeats on this address from this CID."""
        return self.cid in (None, cid) and self.address in (None, address)


@dataclass(slots=True)
class _Enclave:
    """The last heartbeat of an enclave, and the unclaimed ones with their times of arrival."""

    last: Heartbeat
    unclaimed: deque[tuple[float, Heartbeat]]


class HeartbeatStore(Generic[WaiterT]):
    """The heartbeats that have arrived, and the waiters for those that have not.

    Args:
        max_enclaves: How many enclaves to remember. Those with the latest heartbeats are kept.
        max_heartbeats: How many unclaimed heartbeats to remember per enclave. The latest are kept.
    """

    def __init__(self, *, max_enclaves: int = 1024, max_heartbeats: int = 16) -> None:
        self._max_enclaves = max_enclaves
        self._max_heartbeats = max_heartbeats
        # The enclave with the latest heartbeat comes last; the longest waiter comes first.
        self._enclaves: dict[_Key, _Enclave] = {}
        self._waiting: dict[WaiterT, ClaimFilter] = {}

    def last_heartbeats(self) -> Iterator[Heartbeat]:
        """The last heartbeat of each enclave, claimed or not, oldest first."""
        return (enclave.last for enclave in self._enclaves.values())

    def waiting(self) -> Iterator[tuple[WaiterT, ClaimFilter]]:
        """Every waiter and its filter, the longest waiter first."""
        return iter(self._waiting.items())

    def deliver(self, beat: Heartbeat, now: float) -> WaiterT | None:
        """Give a heartbeat to the longest waiter that accepts it, or keep it.

        Args:
            beat: The heartbeat.
            now: The time of a monotonic clock, in seconds.

        Returns:
            The waiter, which has been removed; None if the heartbeat was kept.
        """
        enclave = self._remember(beat)
        for waiter, wanted in self._waiting.items():
            if wanted.matches(beat.address, beat.cid):
                del self._waiting[waiter]
                return waiter
        enclave.unclaimed.append((now, beat))
        return None

    def claim(self, wanted: ClaimFilter, now: float) -> Heartbeat | None:
        """Claim the newest unclaimed heartbeat that a filter accepts; None if there is none."""
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

    def add_waiter(self, waiter: WaiterT, wanted: ClaimFilter) -> None:
        """Add a waiter."""
        self._waiting[waiter] = wanted

    def remove_waiter(self, waiter: WaiterT) -> None:
        """Remove a waiter."""
        del self._waiting[waiter]

    def forget(self, address: Address) -> None:
        """Drop the unclaimed heartbeats of a listen address."""
        for (where, _), enclave in self._enclaves.items():
            if where == address:
                enclave.unclaimed.clear()

    def forget_enclaves(self, address: Address) -> None:
        """Drop the enclaves of a listen address."""
        for key in [key for key in self._enclaves if key[0] == address]:
            del self._enclaves[key]

    def _remember(self, beat: Heartbeat) -> _Enclave:
        key = (beat.address, beat.cid)
        enclave = self._enclaves.pop(key, None)
        if enclave is None:
            enclave = _Enclave(beat, deque(maxlen=self._max_heartbeats))
        enclave.last = beat
        self._enclaves[key] = enclave
        if len(self._enclaves) > self._max_enclaves:
            del self._enclaves[next(iter(self._enclaves))]
        return enclave


class _Waiter:
    """A task that sleeps until it gets a heartbeat or an error."""

    def __init__(self) -> None:
        self._task = trio.lowlevel.current_task()
        self._got: Heartbeat | NoHeartbeatError | None = None

    def wake(self, got: Heartbeat | NoHeartbeatError) -> None:
        self._got = got
        trio.lowlevel.reschedule(self._task)

    async def sleep(self, on_cancel: Callable[["_Waiter"], None]) -> Heartbeat:
        """Return the heartbeat or raise the error. A cancellation calls ``on_cancel`` first."""

        def abort(_: object) -> trio.lowlevel.Abort:
            on_cancel(self)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if not isinstance(self._got, Heartbeat):
            assert self._got is not None
            raise self._got
        return self._got


class ClaimQueue:
    """Gives each heartbeat to one task."""

    def __init__(self) -> None:
        self._open = dict[Address, bool]()
        self._store = HeartbeatStore[_Waiter]()
        self._noted = dict[Address, deque[tuple[float, ConnectionEvent]]]()
        self._ended = False
        self._failure: Exception | None = None

    def last_heartbeats(self) -> list[Heartbeat]:
        """The last heartbeat of each enclave, oldest first."""
        return list(self._store.last_heartbeats())

    def deliver(self, beat: Heartbeat) -> None:
        """Give a heartbeat to the longest waiter that accepts it, or keep it."""
        waiter = self._store.deliver(beat, trio.current_time())
        if waiter is not None:
            waiter.wake(beat)
        self.note(beat)

    def note(self, event: ConnectionEvent) -> None:
        """Remember how a connection ended, unless its address was removed."""
        if (noted := self._noted.get(event.address)) is not None:
            noted.append((trio.current_time(), event))

    def noted(self, address: Address | None, since: float) -> list[ConnectionEvent]:
        """Return how the last connections ended: all heartbeats, and the others after ``since``."""
        noted = self._noted.values() if address is None else [self._noted.get(address, ())]
        last = (entry for each in noted for entry in each)
        return [event for at, event in last if at >= since or isinstance(event, Heartbeat)]

    def forget(self, address: Address) -> None:
        """Drop the unclaimed heartbeats of a listen address."""
        self._store.forget(address)

    def open(self, address: Address, has_cids: bool) -> None:
        """Expect heartbeats on an address. ``has_cids`` says whether its peers have CIDs."""
        self._open[address] = has_cids
        self._noted[address] = deque(maxlen=_NOTED)

    async def claim(self, wanted: ClaimFilter, timeout: float = math.inf) -> Heartbeat | None:
        """Claim a heartbeat that has arrived, or wait for one. A cancellation claims nothing.

        Returns:
            The heartbeat; None if none arrived in time.

        Raises:
            NoHeartbeatError: None can arrive any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        began = trio.current_time()
        beat = self._store.claim(wanted, began)
        if beat is None and self._can_match(wanted):
            waiter = _Waiter()
            self._store.add_waiter(waiter, wanted)
            with trio.move_on_after(timeout):
                return await waiter.sleep(self._store.remove_waiter)
            # One can have arrived after the time was up, but before this task runs.
            now = trio.current_time()
            return self._store.claim(replace(wanted, max_age=max(wanted.max_age, now - began)), now)
        await trio.lowlevel.cancel_shielded_checkpoint()
        if beat is None:
            raise self._why_none(wanted)
        return beat

    def close(self, address: Address) -> None:
        """Record that an address is closed, and wake the tasks that wait for it."""
        if self._open.pop(address, None) is not None:
            self._fail_waiters()

    def remove(self, address: Address) -> None:
        """Forget everything about an address, and wake the tasks that wait for it."""
        self._store.forget_enclaves(address)
        self._open.pop(address, None)
        self._noted.pop(address, None)
        self._fail_waiters(unlistened=True)

    def __enter__(self) -> "ClaimQueue":
        return self

    def __exit__(self, _: object, failure: BaseException | None, __: object) -> None:
        """Wake all tasks: the server has ended or failed."""
        self._open.clear()
        self._ended = True
        self._failure = failure if isinstance(failure, Exception) else None
        self._fail_waiters()

    def _fail_waiters(self, *, unlistened: bool = False) -> None:
        for waiter, wanted in list(self._store.waiting()):
            if not self._can_match(wanted):
                self._store.remove_waiter(waiter)
                waiter.wake(self._why_none(wanted, unlistened))

    def _why_none(self, wanted: ClaimFilter, unlistened: bool = False) -> NoHeartbeatError:
        error = NoHeartbeatError(wanted.cid, wanted.address, self._ended, unlistened)
        error.__cause__ = self._failure
        return error

    def _can_match(self, wanted: ClaimFilter) -> bool:
        return any(
            wanted.matches(address, wanted.cid if has_cids else None)
            for address, has_cids in self._open.items()
        )
