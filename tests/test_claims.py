# SPDX-License-Identifier: Apache-2.0
"""Each heartbeat is claimed once: claims.py compared with a model that keeps a list."""

import itertools
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nitrohb import CID_ANY, Address, Heartbeat, UnixAddress, UnixPeer, VsockAddress
from nitrohb.claims import ClaimFilter, HeartbeatStore

VSOCK = VsockAddress(CID_ANY, 9000)
OTHER = VsockAddress(CID_ANY, 9001)
UNIX = UnixAddress("/run/x.sock")
ENCLAVES: list[tuple[Address, int | None]] = [(VSOCK, 16), (VSOCK, 17), (OTHER, 16), (UNIX, None)]


def beat(address: Address = VSOCK, cid: int | None = 16) -> Heartbeat:
    return Heartbeat(
        address=address,
        time=datetime(2025, 1, 2, tzinfo=UTC),
        peer=UnixPeer(7, 8, 9) if cid is None else VsockAddress(cid, 1024),
        listening_seconds=0.0,
        echo_seconds=0.0,
        echoed=True,
    )


@dataclass
class Entry:
    """A heartbeat in the model."""

    beat: Heartbeat
    when: float
    claimed: bool = False


wanted = st.builds(
    ClaimFilter,
    cid=st.sampled_from([None, 16, 17, 99]),
    address=st.sampled_from([None, VSOCK, OTHER, UNIX]),
    max_age=st.sampled_from([0.0, 1.0, 60.0]),
)


class Rules(RuleBasedStateMachine):
    """The model is a list of all heartbeats, in order of arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = HeartbeatStore[int](max_enclaves=3, max_heartbeats=2)
        self.model: list[Entry] = []
        self.waiters: dict[int, ClaimFilter] = {}
        self.numbers = itertools.count()
        self.now = 0.0

    def fits(self, entry: Entry, wanted: ClaimFilter) -> bool:
        return wanted.cid in (None, entry.beat.cid) and wanted.address in (
            None,
            entry.beat.address,
        )

    def of(self, entry: Entry) -> list[Entry]:
        """All heartbeats of the same enclave, newest first."""
        key = (entry.beat.address, entry.beat.cid)
        return [e for e in reversed(self.model) if (e.beat.address, e.beat.cid) == key]

    def remembered(self) -> list[Entry]:
        """The last heartbeat of each known enclave, in order of arrival."""
        lasts = [entry for entry in self.model if self.of(entry)[0] is entry]
        return lasts[-3:]

    def claimable(self, wanted: ClaimFilter) -> list[Entry]:
        return [
            entry
            for last in self.remembered()
            for entry in [e for e in self.of(last) if not e.claimed][:1]
            if self.fits(entry, wanted) and self.now - entry.when <= wanted.max_age
        ]

    @rule(enclave=st.sampled_from(ENCLAVES))
    def a_heartbeat_comes(self, enclave: tuple[Address, int | None]) -> None:
        entry = Entry(beat(*enclave), self.now)
        remembered = self.remembered()
        if all((e.beat.address, e.beat.cid) != enclave for e in remembered):
            for old in self.of(entry):  # the enclave and all its heartbeats were forgotten
                old.claimed = True
        self.model.append(entry)
        winner = next((w for w, what in self.waiters.items() if self.fits(entry, what)), None)
        assert self.claims.deliver(entry.beat, self.now) == winner
        if winner is not None:
            del self.waiters[winner]
            entry.claimed = True
        for too_many in [e for e in self.of(entry) if not e.claimed][2:]:
            too_many.claimed = True

    @rule(what=wanted)
    def somebody_asks(self, what: ClaimFilter) -> None:
        found = self.claimable(what)
        got = self.claims.claim(what, self.now)
        if not found:
            assert got is None
            number = next(self.numbers)
            self.waiters[number] = what
            self.claims.add_waiter(number, what)
            return
        newest = max(entry.when for entry in found)
        (entry,) = [e for e in found if e.beat is got]
        assert entry.when == newest
        entry.claimed = True

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def somebody_gives_up(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(list(self.waiters)))
        self.claims.remove_waiter(number)
        del self.waiters[number]

    @rule(address=st.sampled_from([VSOCK, OTHER, UNIX]))
    def an_address_is_rearmed(self, address: Address) -> None:
        self.claims.forget(address)
        for entry in self.model:
            entry.claimed |= entry.beat.address == address

    @rule(seconds=st.sampled_from([0.5, 1.0, 59.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_last_ones_are_remembered(self) -> None:
        assert list(self.claims.last_heartbeats()) == [entry.beat for entry in self.remembered()]

    @invariant()
    def they_wait_in_their_order(self) -> None:
        assert list(self.claims.waiting()) == list(self.waiters.items())


TestRules = Rules.TestCase


@pytest.mark.parametrize("age", [60.0, 60.5])
def test_a_heartbeat_that_is_too_old_stays_for_a_larger_max_age(age: float) -> None:
    claims = HeartbeatStore[int]()
    came = beat()
    assert claims.deliver(came, 0.0) is None
    assert claims.claim(ClaimFilter(), age) is (came if age == 60.0 else None)
    assert claims.claim(ClaimFilter(max_age=100.0), age) is (None if age == 60.0 else came)


def test_a_flood_of_one_enclave_drops_no_heartbeat_of_another() -> None:
    claims = HeartbeatStore[int]()
    claims.deliver(honest := beat(cid=17), 0.0)
    for _ in range(10_000):
        claims.deliver(beat(), 1.0)
    assert claims.claim(ClaimFilter(cid=17), 2.0) is honest
    assert len(list(claims.last_heartbeats())) == 2
