# SPDX-License-Identifier: Apache-2.0
"""Which connection is evicted when there are too many: the table alone, and with the server."""

import errno
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nitrohb import Evicted, VsockAddress
from nitrohb.pending import Pending
from tests.support import PeersWithCids, beat, names, serving, settled


class PendingBesideAList(RuleBasedStateMachine):
    """The table, compared with the simplest model: a list of (peer, connection), oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Pending[int]()
        self.model: list[tuple[int, int]] = []
        self.next = 0

    @rule(peer=st.integers(0, 4))
    def add(self, peer: int) -> None:
        self.real.add(peer, self.next)
        self.model.append((peer, self.next))
        self.next += 1

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.model))
        self.real.remove(*entry)
        self.model.remove(entry)

    @invariant()
    def the_victim_is_the_oldest_of_who_holds_the_most(self) -> None:
        assert len(self.real) == len(self.model)
        victim = self.real.victim()
        if not self.model:
            assert victim is None
            return
        counts = Counter(peer for peer, _ in self.model)
        (peer,) = [peer for peer, connection in self.model if connection == victim]
        assert counts[peer] == max(counts.values())
        assert victim == min(connection for whose, connection in self.model if whose == peer)


TestPending = PendingBesideAList.TestCase


async def test_a_newcomer_is_not_the_victim_of_a_flood(tmp_path: Path) -> None:
    with ExitStack() as clients, PeersWithCids(tmp_path / "hb") as listener:
        async with serving(listener, max_pending=3) as events:
            flooding = [clients.enter_context(listener.connect(66)) for _ in range(3)]
            await settled()
            enclave = clients.enter_context(listener.connect(16))
            await settled()
            assert [client.look() for client in flooding] == [(b"", True)] + [(b"", False)] * 2
            await beat(enclave)
    assert names(events)[4:7] == ["connected", "evicted", "heartbeat"]
    assert isinstance(events[5], Evicted)
    assert (events[5].cid, events[5].peer) == (66, VsockAddress(66, 1024))


async def test_exhaustion_evicts_the_oldest_of_the_peer_that_holds_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as clients, PeersWithCids(tmp_path / "hb") as listener:
        async with serving(listener) as events:
            for cid in (16, 66, 66):
                clients.enter_context(listener.connect(cid))
            await settled()
            # At the first failure, the server uses the descriptor in reserve.
            fail(monkeypatch, listener, errno.EMFILE, errno.EMFILE)
            await beat(listener.connect(17))
    assert [event.cid for event in events if isinstance(event, Evicted)] == [66]


def fail(monkeypatch: pytest.MonkeyPatch, listener: PeersWithCids, *numbers: int) -> None:
    real, failures = listener.accept, [OSError(number, os.strerror(number)) for number in numbers]

    def accept() -> object:
        if failures:
            raise failures.pop()
        return real()

    monkeypatch.setattr(listener, "accept", accept)


async def test_an_eviction_before_the_handler_has_run(tmp_path: Path) -> None:
    """Two connections in one batch: the first is evicted before its task has run."""
    with ExitStack() as clients, PeersWithCids(tmp_path / "hb") as listener:
        waiting = [listener.connect(66), listener.connect(16)]
        for client in waiting:
            clients.enter_context(client)
        async with serving(listener, max_pending=1) as events:
            await settled()
            assert [client.look()[1] for client in waiting] == [True, False]
    assert names(events) == ["listening", "connected", "connected", "evicted"]
