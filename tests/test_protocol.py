# SPDX-License-Identifier: Apache-2.0
"""The sans-I/O core by itself, and the rule of who may import whom."""

import ast
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import nitrohb
from nitrohb.errors import PeerClosedError, PeerError, WrongByteError
from nitrohb.protocol import (
    HEARTBEAT,
    HEARTBEAT_PORT,
    PARENT_CID,
    TRANSITIONS,
    EnclaveHandshake,
    Input,
    Latch,
    ParentHandshake,
    State,
)

BEAT = HEARTBEAT[0]
OTHER_BYTES = [bytes((byte,)) for byte in range(256) if byte != BEAT]

Handshake = ParentHandshake | EnclaveHandshake


def test_constants_are_those_of_init_c() -> None:
    assert (HEARTBEAT, HEARTBEAT_PORT, PARENT_CID) == (b"\xb7", 9000, 3)


# --- every state and every input ----------------------------------------------------------------

WIRE = {Input.HEARTBEAT: HEARTBEAT, Input.OTHER_BYTE: b"\x00", Input.END: b""}
"""What each input looks like when it is read from a wire."""


def enclave() -> Handshake:
    return EnclaveHandshake()


def parent() -> Handshake:
    return ParentHandshake(Latch())


def parent_too_late() -> Handshake:
    latch = Latch()
    assert latch.trip()
    return ParentHandshake(latch)


INPUT_FOR: dict[State, bytes | None] = {
    State.WAITING: None,
    State.HEARTBEAT: HEARTBEAT,
    State.WRONG_BYTE: b"\x00",
    State.CLOSED: b"",
}
"""By what input each state is reached; ``LATE`` needs a latch that has been tripped besides."""

WAYS = [
    *((side, data, state) for side in (enclave, parent) for state, data in INPUT_FOR.items()),
    (parent_too_late, HEARTBEAT, State.LATE),
]


def reach(make: Callable[[], Handshake], data: bytes | None) -> Handshake:
    handshake = make()
    if data is not None:
        handshake.receive(data)
    return handshake


@pytest.mark.parametrize("what", Input)
@pytest.mark.parametrize(("make", "data", "state"), WAYS)
def test_every_input_in_every_state(
    make: Callable[[], Handshake], data: bytes | None, state: State, what: Input
) -> None:
    handshake = reach(make, data)
    assert handshake.state is state
    assert handshake.receive(WIRE[what]) is TRANSITIONS.get((state, what), state)
    assert handshake.state is TRANSITIONS.get((state, what), state)


def test_those_are_all_states() -> None:
    assert {state for _, _, state in WAYS} == set(State)


def test_only_waiting_has_moves() -> None:
    assert {state for state, _ in TRANSITIONS} == {State.WAITING}
    assert {what for _, what in TRANSITIONS} == set(Input)
    assert State.LATE not in TRANSITIONS.values()


@pytest.mark.parametrize("byte", OTHER_BYTES)
@pytest.mark.parametrize("make", [enclave, parent])
def test_each_other_byte_is_wrong(make: Callable[[], Handshake], byte: bytes) -> None:
    handshake = make()
    assert handshake.receive(byte) is State.WRONG_BYTE
    assert handshake.byte == byte[0]


@pytest.mark.parametrize("byte", [*OTHER_BYTES, HEARTBEAT])
def test_any_byte_is_echoed_if_so_asked(byte: bytes) -> None:
    handshake = ParentHandshake(Latch(any_byte=True))
    assert handshake.receive(byte) is State.HEARTBEAT
    assert handshake.reply == byte


def test_any_byte_needs_a_byte() -> None:
    handshake = ParentHandshake(Latch(any_byte=True))
    assert handshake.receive(b"") is State.CLOSED
    assert handshake.reply == b""


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("any_byte", [True, False])
@pytest.mark.parametrize("memory", ["armed", "answered", "answered, then reset"])
@pytest.mark.parametrize("data", [HEARTBEAT, b"\x00", b""])
def test_every_latch_with_every_input(once: bool, any_byte: bool, memory: str, data: bytes) -> None:
    latch = Latch(once=once, any_byte=any_byte)
    if memory != "armed":
        assert ParentHandshake(latch).receive(HEARTBEAT) is State.HEARTBEAT
    if memory == "answered, then reset":
        latch.reset()
    handshake = ParentHandshake(latch)
    counts = data == HEARTBEAT or (any_byte and data != b"")
    late = once and memory == "answered"

    handshake.receive(data)

    if counts:
        assert handshake.state is (State.LATE if late else State.HEARTBEAT)
    else:
        assert handshake.state is (State.WRONG_BYTE if data else State.CLOSED)
    assert handshake.reply == (data if counts and not late else b"")
    assert latch.answered is (late or (once and counts))


@pytest.mark.parametrize("data", [b"", b"\x00"])
def test_what_is_no_heartbeat_leaves_the_latch_armed(data: bytes) -> None:
    latch = Latch()
    ParentHandshake(latch).receive(data)
    assert not latch.answered
    assert ParentHandshake(latch).receive(HEARTBEAT) is State.HEARTBEAT


def test_a_second_byte_on_one_connection_does_not_trip_the_latch_again() -> None:
    latch = Latch()
    first = ParentHandshake(latch)
    first.receive(HEARTBEAT)
    latch.reset()
    assert first.receive(HEARTBEAT) is State.HEARTBEAT
    assert not latch.answered


# --- what a peer did wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [enclave, parent])
def test_check_names_a_wrong_byte(make: Callable[[], Handshake]) -> None:
    with pytest.raises(WrongByteError) as caught:
        reach(make, b"\x0a!").check("the peer")
    assert str(caught.value) == "the peer sent 0x0A, not the heartbeat 0xB7"
    assert caught.value.byte == 0x0A


@pytest.mark.parametrize("make", [enclave, parent])
def test_check_names_an_end_without_a_byte(make: Callable[[], Handshake]) -> None:
    with pytest.raises(PeerClosedError) as caught:
        reach(make, b"").check("vsock:3:9000")
    assert str(caught.value) == "vsock:3:9000 closed the connection without sending a byte"


@pytest.mark.parametrize(("make", "data", "state"), WAYS)
def test_check_has_nothing_to_say_of_a_peer_that_did_nothing_wrong(
    make: Callable[[], Handshake], data: bytes | None, state: State
) -> None:
    handshake = reach(make, data)
    if state in (State.WRONG_BYTE, State.CLOSED):
        with pytest.raises(PeerError):
            handshake.check("the peer")
    else:
        handshake.check("the peer")


@pytest.mark.parametrize(("make", "data", "state"), WAYS)
def test_only_a_heartbeat_has_a_reply(
    make: Callable[[], Handshake], data: bytes | None, state: State
) -> None:
    handshake = reach(make, data)
    if isinstance(handshake, ParentHandshake):
        assert handshake.reply == (HEARTBEAT if state is State.HEARTBEAT else b"")


# --- how the bytes are cut does not matter ------------------------------------------------------


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """The pieces of some bytes; never an empty one, which would be the end."""
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def feed(handshake: Handshake, reads: Iterable[bytes]) -> tuple[State, int | None, bytes]:
    for read in reads:
        handshake.receive(read)
    reply = handshake.reply if isinstance(handshake, ParentHandshake) else b""
    return handshake.state, handshake.byte, reply


def ends(reads: Sequence[bytes], end: bool) -> list[bytes]:
    return [*reads, b""] if end else list(reads)


# Nearly every random byte is a wrong one: let half of the streams begin with the right one.
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
        if answered:
            latch.trip()
        return ParentHandshake(latch)

    whole = [data] if data else []
    for make in (parent_side, enclave):
        expected = feed(make(), ends(whole, end))
        assert feed(make(), ends(cut(data, at), end)) == expected
        assert feed(make(), ends(cut(data, range(len(data))), end)) == expected
        assert expected == feed(make(), ends([data[:1]] if data else [], end)), "trailing bytes"


@given(data=st.binary(min_size=1, max_size=40))
def test_a_bytearray_is_as_good_as_bytes(data: bytes) -> None:
    of_bytes, of_bytearray = parent(), parent()
    assert of_bytes.receive(data) is of_bytearray.receive(bytearray(data))
    assert of_bytes.byte == of_bytearray.byte


@given(reads=st.lists(st.binary(max_size=3)))
def test_a_final_state_is_final(reads: list[bytes]) -> None:
    for make in (parent, parent_too_late, enclave):
        handshake = make()
        states = [handshake.receive(read) for read in reads]
        assert set(states[1:]) <= set(states[:1])


# --- both sides against each other --------------------------------------------------------------


class HeartbeatPair:
    """An enclave and its parent, and between them a wire that cuts and joins as it likes."""

    def __init__(self, latch: Latch, *, opening: bytes = EnclaveHandshake.opening) -> None:
        self.parent = ParentHandshake(latch)
        self.enclave = EnclaveHandshake()
        self.to_parent = bytearray(opening)
        self.to_enclave = bytearray()
        self.closed = False  # by the parent, which is first to close in all cases but one

    def deliver_to_parent(self, count: int) -> None:
        """The parent reads at most so many bytes, and does what its state asks for."""
        read = bytes(self.to_parent[:count])
        del self.to_parent[:count]
        if read and self.parent.state is State.WAITING:
            self.parent.receive(read)
            self.to_enclave += self.parent.reply
            self.closed = True

    def deliver_to_enclave(self, count: int) -> None:
        read = bytes(self.to_enclave[:count])
        del self.to_enclave[:count]
        if read or self.closed:
            self.enclave.receive(read)

    def run(self, chunks: Iterable[int]) -> tuple[State, State]:
        """Deliver in chunks, to either side in turn, and at last whatever is left."""
        for turn, count in enumerate([*chunks, 1000, 1000, 1000]):
            (self.deliver_to_enclave if turn % 2 else self.deliver_to_parent)(count)
        return self.parent.state, self.enclave.state


chunkings = st.lists(st.integers(1, 5), max_size=10)


@given(tail=st.binary(max_size=20), chunks=chunkings, any_byte=st.booleans())
def test_a_boot(tail: bytes, chunks: list[int], any_byte: bool) -> None:
    pair = HeartbeatPair(Latch(any_byte=any_byte), opening=EnclaveHandshake.opening + tail)
    assert pair.run(chunks) == (State.HEARTBEAT, State.HEARTBEAT)


@given(opening=st.binary(min_size=1, max_size=20), chunks=chunkings)
def test_a_parent_that_echoes_any_byte(opening: bytes, chunks: list[int]) -> None:
    beat = opening[0] == BEAT
    pair = HeartbeatPair(Latch(any_byte=True), opening=opening)
    assert pair.run(chunks) == (State.HEARTBEAT, State.HEARTBEAT if beat else State.WRONG_BYTE)


@given(opening=st.sampled_from(OTHER_BYTES), chunks=chunkings)
def test_a_refused_enclave_reads_the_end(opening: bytes, chunks: list[int]) -> None:
    assert HeartbeatPair(Latch(), opening=opening).run(chunks) == (State.WRONG_BYTE, State.CLOSED)


@given(chunks=chunkings)
def test_a_second_boot_on_a_one_shot_address_is_late(chunks: list[int]) -> None:
    latch = Latch()
    assert HeartbeatPair(latch).run(chunks) == (State.HEARTBEAT, State.HEARTBEAT)
    assert HeartbeatPair(latch).run(chunks) == (State.LATE, State.CLOSED)
    latch.reset()
    assert HeartbeatPair(latch).run(chunks) == (State.HEARTBEAT, State.HEARTBEAT)


class OneAddress(RuleBasedStateMachine):
    """Many connections on one latch, beside the simplest model of it: a count of beats owed."""

    def __init__(self) -> None:
        super().__init__()
        self.once = True
        self.any_byte = False
        self.latch = Latch()
        self.open: list[ParentHandshake] = []
        self.finished: list[tuple[ParentHandshake, State, bytes]] = []
        self.answered = False

    @precondition(lambda self: not self.open and not self.finished)
    @rule(once=st.booleans(), any_byte=st.booleans())
    def configure(self, once: bool, any_byte: bool) -> None:
        self.once, self.any_byte, self.answered = once, any_byte, False
        self.latch = Latch(once=once, any_byte=any_byte)

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
            return State.LATE
        self.answered = self.once
        return State.HEARTBEAT

    @precondition(lambda self: self.finished)
    @rule(which=st.integers(0), data=st.binary(max_size=2))
    def read_after_the_end(self, which: int, data: bytes) -> None:
        handshake, state, _ = self.finished[which % len(self.finished)]
        assert handshake.receive(data) is state

    @rule()
    def reset(self) -> None:
        self.latch.reset()
        self.answered = False

    @invariant()
    def the_latch_is_as_the_model_says(self) -> None:
        assert self.latch.answered is self.answered

    @invariant()
    def no_connection_changes_another(self) -> None:
        assert all(each.state is State.WAITING for each in self.open)
        assert all((each.state, each.reply) == (s, r) for each, s, r in self.finished)


TestOneAddress = OneAddress.TestCase


# --- who may import whom ------------------------------------------------------------------------

PACKAGE = pathlib.Path(nitrohb.__file__).parent

FLOORS = (
    "errors",
    "timeouts",
    "scratch",
    "protocol",
    "pending",
    "addresses",
    "remedies",
    "events",
    "activation",
    "wire",
    "local_cid",
    "unixfiles",
    "listeners",
    "claims",
    "handout",
    "inotify",
    "socketfiles",
    "rules",
    "connection",
    "port",
    "server",
    "client",
    "thread",
    "api",
    "doctor",
    "cli",
    "__main__",
)
"""The modules, each of which may import only from those before it."""

FOREIGN = {
    "handout": {"trio"},
    "socketfiles": {"trio"},
    "connection": {"trio"},
    "port": {"trio"},
    "server": {"trio"},
    "client": {"anyio", "trio"},
    "thread": {"anyio", "trio"},
    "api": {"trio", "starlette", "hypercorn", "prometheus_client"},
    "doctor": {"trio"},
    "cli": {"anyio", "trio", "rich"},
}
"""What is not of the standard library, and who may import it."""


def floor_of(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: pathlib.Path) -> set[str]:
    """The modules that a file imports, by their absolute names, wherever in it that happens."""
    package = ["nitrohb", *path.relative_to(PACKAGE).parts[:-1]]
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            # "from . import wire" names a module, "from .wire import Wait" does not
            whole = node.level and node.module is None
            found |= {f"{start}.{alias.name}" for alias in node.names} if whole else {start}
    return found


def own_floors(path: pathlib.Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == "nitrohb" and len(parts) > 1}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_module_has_its_floor() -> None:
    assert {floor_of(path) for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_floor_imports_only_from_the_floors_above_it(path: pathlib.Path) -> None:
    floor = floor_of(path)
    above = FLOORS[: FLOORS.index(floor)]
    # The modules of a package are one floor; __version__ is in the package's own __init__.
    allowed = {*above, floor, "__version__"} if floor in ("api", "doctor", "cli") else set(above)
    assert own_floors(path) <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_who_needs_trio_and_anyio(path: pathlib.Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    foreign = roots - set(sys.stdlib_module_names) - {"nitrohb"}
    assert foreign <= FOREIGN.get(floor_of(path), set())


def test_import_scan_sees_what_it_has_to_see() -> None:
    assert own_floors(PACKAGE / "client.py") >= {"wire", "addresses", "errors", "protocol"}
    assert {"trio", "anyio", "socket"} <= imports(PACKAGE / "client.py")


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
