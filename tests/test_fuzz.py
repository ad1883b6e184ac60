# SPDX-License-Identifier: Apache-2.0
"""Hypothesis against the running server: clients in any order, and all at once.

test_model.py checks what each client reads. Here, no client reads a wrong byte, every connection
has one outcome, and nothing is left behind.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nitrohb import Connected, Disconnected, Event, Evicted, Heartbeat, Rejected, acceptor
from tests.conftest import open_descriptors
from tests.support import B7, Client, PeersWithCids, names, serving, settled

DEADLINE = 5.0

chunks = st.one_of(
    st.just(B7),
    st.binary(min_size=1, max_size=3),
    st.binary(max_size=20).map(lambda tail: B7 + tail),
)
actions = st.one_of(
    chunks.map(lambda data: ("send", data)),
    # Without "settle" between them, the server meets several actions in one pass of its loop.
    st.sampled_from(
        [(name, b"") for name in ("connect", "flood", "leave", "settle", "yield", "wait")]
    ),
)
Script = list[tuple[int, tuple[str, bytes]]]
scripts: st.SearchStrategy[Script] = st.lists(
    st.tuples(st.integers(0, 5), st.just(("connect", b"")) | actions), max_size=40
)


@dataclass
class Peer:
    client: Client
    first: bytes = b""  # the first byte that it has sent


async def act(peer: Peer | None, action: str, data: bytes) -> None:
    match action:
        case "settle":
            await settled()
        case "yield":
            await trio.lowlevel.checkpoint()
        case "wait":
            await trio.sleep(1.25)
        case "send" if peer:
            peer.client.send(data)
            peer.first = peer.first or data[:1]
        case "flood" if peer:
            await act(peer, "send", bytes(100_000))
        case "leave" if peer:
            peer.client.half_close()
        case _:
            pass


async def play(path: Path, script: Script, has_cids: bool, any_byte: bool, **options: Any) -> None:
    """Play a script against a server, and check every client after every step."""
    tasks = trio.lowlevel.current_statistics().tasks_living
    peers: list[Peer] = []

    def connect(cid: int) -> None:
        client = listener.connect(cid) if listener else Client(path)
        peers.append(Peer(closing.enter_context(client)))

    def look() -> None:
        for peer in peers:
            may_be_echoed = any_byte or peer.first == B7
            assert peer.client.look()[0] in (b"", peer.first if may_be_echoed else b"")

    with ExitStack() as closing:
        listener = closing.enter_context(PeersWithCids(path)) if has_cids else None
        where = listener or f"unix:{path}"
        async with serving(where, any_byte=any_byte, **options) as events:
            for who, (action, data) in script:
                if "done" in names(events):
                    break
                if action == "connect":
                    connect(16 + who)
                await act(peers[who % len(peers)] if peers else None, action, data)
                look()
            await trio.sleep(DEADLINE)
            await settled()
            look()
            assert all(peer.client.ended for peer in peers)
            if "done" not in names(events):
                # The parent task of the nursery, the listener task, the task that checks the socket
                # file, and the task that keeps a server without an address running.
                tasks += 1 + (not has_cids) + 1 + options["keep"]
            assert trio.lowlevel.current_statistics().tasks_living == tasks
    check_outcomes(events, options["keep"])


def check_outcomes(events: list[Event], keep: bool) -> None:
    outcomes = Heartbeat | Rejected | Disconnected | Evicted
    came = Counter(event.cid for event in events if isinstance(event, Connected))
    assert came == Counter(event.cid for event in events if isinstance(event, outcomes))
    if not keep:
        assert names(events).count("heartbeat") == names(events).count("done") <= 1


@given(
    script=scripts,
    has_cids=st.booleans(),
    any_byte=st.booleans(),
    keep=st.booleans(),
    max_pending=st.integers(1, 6),
    few=st.integers(0, 3),
)
@settings(max_examples=max(100, settings().max_examples // 2))
def test_every_client_gets_the_right_bytes_and_nothing_is_left_behind(few: int, **how: Any) -> None:
    before = open_descriptors()
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(acceptor, "_POLLED_MAX", few)
        path = Path(directory) / "hb"
        clock = MockClock(autojump_threshold=0)
        trio.run(partial(play, path, **how), clock=clock)
        assert not path.exists()
    assert open_descriptors() == before
