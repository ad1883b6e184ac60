# SPDX-License-Identifier: Apache-2.0
"""The protocol without I/O."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nitrohb.protocol import (
    HEARTBEAT,
    HEARTBEAT_PORT,
    PARENT_CID,
    EnclaveHandshake,
    Latch,
    ParentHandshake,
    State,
)

BEAT = HEARTBEAT[0]

Handshake = ParentHandshake | EnclaveHandshake


def test_constants_are_those_of_init_c() -> None:
    assert (HEARTBEAT, HEARTBEAT_PORT, PARENT_CID) == (b"\xb7", 9000, 3)
    assert EnclaveHandshake.opening == HEARTBEAT


# --- every state, every input, every byte -------------------------------------------------------

INPUTS = {HEARTBEAT: State.HEARTBEAT, b"\x00": State.WRONG_BYTE, b"": State.CLOSED}
"""What can be read from a connection, and the state of a waiting handshake after it."""


def enclave() -> Handshake:
    return EnclaveHandshake()


def parent() -> Handshake:
    return ParentHandshake(Latch())


def parent_too_late() -> Handshake:
    latch = Latch()
    assert latch.try_answer()
    return ParentHandshake(latch)


READ = {
    State.WAITING: None,
    State.HEARTBEAT: HEARTBEAT,
    State.WRONG_BYTE: b"\x00",
    State.CLOSED: b"",
}
"""What is read to reach each state. ``LATE`` also needs a latch that has been tripped."""

WAYS = [
    *((side, data, state) for side in (enclave, parent) for state, data in READ.items()),
    (parent_too_late, HEARTBEAT, State.ALREADY_ANSWERED),
]


def reach(make: Callable[[], Handshake], data: bytes | None) -> Handshake:
    handshake = make()
    if data is not None:
        handshake.receive(data)
    return handshake


@pytest.mark.parametrize(("make", "data", "state"), WAYS)
def test_every_state_and_every_input_in_it(
    make: Callable[[], Handshake], data: bytes | None, state: State
) -> None:
    for more, moved in INPUTS.items():
        handshake = reach(make, data)
        assert handshake.state is state
        if isinstance(handshake, ParentHandshake):
            assert handshake.reply == (HEARTBEAT if state is State.HEARTBEAT else b"")
        after = moved if state is State.WAITING else state
        assert (handshake.receive(more), handshake.state) == (after, after), more


def test_every_state_can_be_reached() -> None:
    assert {state for _, _, state in WAYS} == set(State)


def test_every_byte() -> None:
    for byte in range(256):
        expected = State.HEARTBEAT if byte == BEAT else State.WRONG_BYTE
        for handshake in (enclave(), parent()):
            assert handshake.receive(bytes((byte,))) is expected, f"{byte:#x} {handshake}"
            assert handshake.byte == byte
        any_byte = ParentHandshake(Latch(any_byte=True))
        assert any_byte.receive(bytes((byte,))) is State.HEARTBEAT, f"{byte:#x}"
        assert any_byte.reply == bytes((byte,))


def test_a_boot_a_late_connection_and_one_after_a_reset() -> None:
    """Both sides, connected to each other."""
    latch = Latch()
    for expected in (
        State.HEARTBEAT,
        State.ALREADY_ANSWERED,
        State.ALREADY_ANSWERED,
        State.HEARTBEAT,
    ):
        if expected is State.HEARTBEAT:
            latch.rearm()
        ours, theirs = ParentHandshake(latch), EnclaveHandshake()
        assert ours.receive(theirs.opening) is expected
        late = expected is State.ALREADY_ANSWERED
        assert theirs.receive(ours.reply) is (State.CLOSED if late else State.HEARTBEAT)


# --- bytes in pieces of any size ----------------------------------------------------------------


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """Split some bytes into pieces. No piece is empty, because that would be the end."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def feed(handshake: Handshake, reads: Iterable[bytes | bytearray]) -> tuple[object, ...]:
    for read in reads:
        handshake.receive(read)
    reply = handshake.reply if isinstance(handshake, ParentHandshake) else b""
    return handshake.state, handshake.byte, reply


# Nearly every random byte is wrong: let half of the streams begin with the right one.
streams = st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda tail: b"\xb7" + tail))


@given(
    data=streams,
    at=st.lists(st.integers(0, 40)),
    end=st.booleans(),
    any_byte=st.booleans(),
    answered=st.booleans(),
)
def test_whole_or_in_pieces_or_byte_by_byte(
    data: bytes, at: list[int], end: bool, any_byte: bool, answered: bool
) -> None:
    def parent_side() -> Handshake:
        latch = Latch(any_byte=any_byte)
        latch.answered = answered
        return ParentHandshake(latch)

    last = [b""] if end else []
    whole = [data] if data else []
    for make in (parent_side, enclave):
        expected = feed(make(), [*whole, *last])
        assert feed(make(), [*map(bytearray, whole), *last]) == expected
        assert feed(make(), [*cut(data, at), *last]) == expected
        assert feed(make(), [*cut(data, range(len(data))), *last]) == expected
        assert feed(make(), [*cut(data[:1], []), *last]) == expected, "trailing bytes"


# --- many connections on one address --------------------------------------------------------------


class OneAddress(RuleBasedStateMachine):
    """Many connections on one latch, compared with the simplest model: whether it has answered."""

    @initialize(once=st.booleans(), any_byte=st.booleans())
    def configure(self, once: bool, any_byte: bool) -> None:
        self.once, self.any_byte, self.answered = once, any_byte, False
        self.latch = Latch(keep=not once, any_byte=any_byte)
        self.open: list[ParentHandshake] = []
        self.finished: list[tuple[ParentHandshake, State, bytes]] = []

    @rule()
    def connect(self) -> None:
        self.open.append(ParentHandshake(self.latch))

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0), data=streams)
    def read(self, which: int, data: bytes) -> None:
        handshake = self.open.pop(which % len(self.open))
        expected = self.model(data)
        assert handshake.receive(data) is expected
        reply = data[:1] if expected is State.HEARTBEAT else b""
        self.finished.append((handshake, expected, reply))

    def model(self, data: bytes) -> State:
        if not data:
            return State.CLOSED
        if data[0] != BEAT and not self.any_byte:
            return State.WRONG_BYTE
        if self.answered:
            return State.ALREADY_ANSWERED
        self.answered = self.once
        return State.HEARTBEAT

    @precondition(lambda self: self.finished)
    @rule(which=st.integers(0), data=st.binary(max_size=2) | st.just(HEARTBEAT))
    def read_after_the_end(self, which: int, data: bytes) -> None:
        handshake, state, _ = self.finished[which % len(self.finished)]
        assert handshake.receive(data) is state

    @rule()
    def reset(self) -> None:
        self.latch.rearm()
        self.answered = False

    @invariant()
    def all_is_as_the_model_says_and_no_connection_changes_another(self) -> None:
        assert self.latch.answered is self.answered
        assert all(each.state is State.WAITING for each in self.open)
        assert all((each.state, each.reply) == (s, r) for each, s, r in self.finished)


TestOneAddress = OneAddress.TestCase


def test_protocol_loads_no_socket_and_no_event_loop() -> None:
    code = (
        "import sys; before = {*sys.modules}; import nitrohb.protocol;"  # coverage may be there
        "new = sys.modules.keys() - before;"
        "print('nitrohb.protocol' in new, new & {'socket', 'trio', 'anyio', 'asyncio'})"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code], check=True, capture_output=True, text=True
    )
    assert run.stdout == "True set()\n"
