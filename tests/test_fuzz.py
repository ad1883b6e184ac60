# SPDX-License-Identifier: Apache-2.0
"""Hypothesis against the running server: several clients, interleaved, that do as they like."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import trio
from hypothesis import event, given
from hypothesis import strategies as st
from trio.testing import MockClock

from nitrohb import Event
from tests.conftest import open_descriptors
from tests.support import B7, Client, names, serving, settled

DEADLINE = 5.0

chunks = st.one_of(
    st.just(B7),
    st.binary(min_size=1, max_size=3),
    st.binary(min_size=1, max_size=20).map(lambda tail: B7 + tail),
    st.just(bytes(100_000)),
)
actions = st.one_of(
    chunks.map(lambda data: ("send", data)),
    st.sampled_from([("half_close", b""), ("close", b""), ("wait", b"")]),
)
steps = st.lists(st.tuples(st.integers(0, 4), actions), max_size=25)


@dataclass
class Peer:
    """A client, and what the exchange says about it."""

    client: Client
    connected: float
    first: bytes = b""  # its first byte, if the server was still there to read it
    over: bool = False  # the server has closed it, or it has closed itself

    def act(self, action: str, data: bytes) -> None:
        if action == "send" and not self.over:
            self.client.send(data)
            self.first, self.over = data[:1], True
        elif action == "send":
            self.client.send(data)  # nobody may care
        elif action == "half_close":
            self.client.half_close()
            self.over = True
        elif action == "close":
            self.client.close()
            self.client.ended = self.over = True

    def expire(self, now: float) -> None:
        self.over = self.over or now - self.connected >= DEADLINE


@dataclass
class World:
    path: Path
    any_byte: bool
    once: bool
    peers: dict[int, Peer] = field(default_factory=dict[int, Peer])
    answered: bool = False

    def is_heartbeat(self, byte: bytes) -> bool:
        return byte == B7 or (self.any_byte and byte != b"")


async def play(world: World, script: list[tuple[int, tuple[str, bytes]]]) -> list[Event]:
    """Play a script against a server, and check every client after every step."""
    baseline = trio.lowlevel.current_statistics().tasks_living
    with ExitStack() as cleanup:
        async with serving(
            f"unix:{world.path}", any_byte=world.any_byte, once=world.once
        ) as events:
            for who, (action, data) in script:
                if world.answered:
                    break
                await one_step(world, who, action, data, cleanup)
            await trio.sleep(DEADLINE)
            await settled()
            # The server itself: its nursery's parent, its listener, and who keeps its socket file,
            # unless it is done.
            assert trio.lowlevel.current_statistics().tasks_living == baseline + (
                0 if world.answered else 3
            )
    return events


async def one_step(world: World, who: int, action: str, data: bytes, cleanup: ExitStack) -> None:
    if who not in world.peers:
        client = cleanup.enter_context(Client(world.path))
        world.peers[who] = Peer(client, trio.current_time())
        await settled()
    peer = world.peers[who]
    was_over = peer.over
    if action == "wait":
        await trio.sleep(1.25)
        for other in world.peers.values():
            other.expire(trio.current_time())
    else:
        peer.act(action, data)
    await settled()
    check(world, peer, spoke=action == "send" and not was_over)


def check(world: World, peer: Peer, *, spoke: bool) -> None:
    if spoke and world.is_heartbeat(peer.first):
        event("answered")
        assert peer.client.look() == (peer.first, True)
        world.answered = world.once
    for other in world.peers.values():
        got, ended = other.client.look()
        assert got == (other.first if world.is_heartbeat(other.first) else b"")
        assert ended == (other.over or world.answered)


def one_end_for_every_connection(events: list[Event]) -> bool:
    ends = [name for name in names(events) if name in ("heartbeat", "rejected", "disconnected")]
    return len(ends) == names(events).count("connected")


@given(script=steps, any_byte=st.booleans(), once=st.booleans())
def test_no_client_gets_what_it_should_not_or_leaves_anything_behind(
    script: list[tuple[int, tuple[str, bytes]]], any_byte: bool, once: bool
) -> None:
    before = open_descriptors()
    with TemporaryDirectory() as directory:
        world = World(Path(directory) / "hb", any_byte, once)
        events = trio.run(play, world, script, clock=MockClock(autojump_threshold=0))
        assert not world.path.exists()
    assert open_descriptors() == before
    assert one_end_for_every_connection(events)
    assert names(events).count("done") == (1 if world.answered else 0)
    assert len(world.peers) == names(events).count("connected")


@given(chunking=st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=6))
def test_however_the_bytes_are_cut_only_the_first_counts(chunking: list[bytes]) -> None:
    async def send_all(path: Path) -> tuple[bytes, bool]:
        async with serving(f"unix:{path}"):
            with Client(path) as client:
                for chunk in chunking:
                    client.send(chunk)
                    await settled()
                return client.look()

    with TemporaryDirectory() as directory:
        got = trio.run(send_all, Path(directory) / "hb", clock=MockClock(autojump_threshold=0))
    assert got == (B7 if chunking[0].startswith(B7) else b"", True)
