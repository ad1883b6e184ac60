# SPDX-License-Identifier: Apache-2.0
"""The real server, compared with a small model after each step.

Hypothesis drives the models in a thread. Each step runs in the trio loop of the server, whose clock
moves only when a rule moves it.
"""

import itertools
import math
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from trio.testing import MockClock

from nitrohb import (
    Connected,
    Event,
    Heartbeat,
    HeartbeatServer,
    ListenError,
    NoHeartbeatError,
    UsageError,
    serve_heartbeat,
)
from tests.support import B7, Client, settled

DEADLINE = 5.0


class RealServer(RuleBasedStateMachine):
    """The base of all models: a real server in a new directory, and numbered clients."""

    clock: MockClock
    nursery: trio.Nursery
    once: bool

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.real: dict[int, Client] = {}
        self.numbers = itertools.count()
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.server: HeartbeatServer = trio.from_thread.run(self.nursery.start, self._serve)

    async def serve(self, task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        raise NotImplementedError

    async def _serve(self, task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        with self.scope:
            await self.serve(task_status)
        self.ended.set()

    def do(self, step: Any, *args: Any) -> Any:
        """Do something in the loop of the server, and let the server become idle."""

        async def then_settle() -> Any:
            result = step(*args)
            await settled()
            return result

        return trio.from_thread.run(then_settle)

    def teardown(self) -> None:
        self.do(self.scope.cancel)
        trio.from_thread.run(self.ended.wait)
        assert [*Path(self.directory.name).iterdir()] == []
        for client in self.real.values():
            client.close()
        self.directory.cleanup()


class Machine(RealServer):
    """The common part of the models of one address."""

    any_byte: bool
    once = True
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        # The model: whether the server has answered and ended, when each waiting client has
        # connected, oldest first, and the bytes that each client was sent.
        self.done = False
        self.waiting: dict[int, float] = {}
        self.echoes: dict[int, bytes] = {}

    @property
    def path(self) -> Path:
        return Path(self.directory.name) / "hb"

    async def serve(self, task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        await serve_heartbeat(
            f"unix:{self.path}",
            keep=not self.once,
            any_byte=self.any_byte,
            task_status=task_status,
        )

    def answer(self, number: int, byte: bytes) -> None:
        self.echoes[number] = byte
        if self.once:
            self.done = True
            self.waiting.clear()

    @rule()
    def reset(self) -> None:
        """A reset of the machine drops waiting connections. A device that has answered is gone."""
        if self.done:
            with pytest.raises(UsageError, match="is closed"):
                self.do(self.server.rearm)
            return
        self.do(self.server.rearm)
        self.waiting.clear()

    @invariant()
    def every_client_sees_what_the_model_says(self) -> None:
        seen = self.do(lambda: {number: client.look() for number, client in self.real.items()})
        assert seen == {
            number: (self.echoes.get(number, b""), number not in self.waiting)
            for number in self.real
        }

    @precondition(lambda self: self.done)
    @rule()
    def it_no_longer_listens(self) -> None:
        with pytest.raises(FileNotFoundError):
            Client(self.path)
        assert self.ended.is_set()

    @precondition(lambda self: not self.done)
    @rule(target=clients)
    def client_connects(self) -> int:
        number = next(self.numbers)
        self.real[number] = self.do(Client, self.path)
        self.waiting[number] = self.now
        return number

    @rule(number=clients)
    def client_closes_its_half(self, number: int) -> None:
        self.do(self.real[number].half_close)
        self.waiting.pop(number, None)

    @rule(number=consumes(clients))
    def client_goes(self, number: int) -> None:
        self.do(self.real.pop(number).close)
        self.waiting.pop(number, None)


class SeedDevice(Machine):
    """QEMU's device: one client at a time. It echoes the first byte of any value, and is done.

    The server does not make others wait for a silent client. So here only the oldest client sends,
    while all may connect and leave. Then both must agree.
    """

    any_byte = True

    @precondition(lambda self: self.waiting)
    @rule(data=st.binary(min_size=1, max_size=3))
    def its_turn_and_it_speaks(self, data: bytes) -> None:
        number = next(iter(self.waiting))
        self.do(self.real[number].send, data)
        self.answer(number, data[:1])


class Strict(Machine):
    """The rules of nitrohb: any client may send, 0xB7 is answered, a silent client is closed."""

    any_byte = False

    @rule(number=Machine.clients, data=st.just(B7) | st.binary(min_size=1, max_size=3))
    def client_speaks(self, number: int, data: bytes) -> None:
        self.do(self.real[number].send, data)
        if number in self.waiting and data[:1] == B7:
            self.answer(number, B7)
        self.waiting.pop(number, None)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.5, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.clock.jump, seconds)
        self.now += seconds
        self.waiting = {n: t for n, t in self.waiting.items() if self.now - t < DEADLINE}


class Keep(Strict):
    """The same with keep. Each heartbeat can be claimed once, until the next reset."""

    once = False

    def __init__(self) -> None:
        super().__init__()
        self.unclaimed = 0

    def answer(self, number: int, byte: bytes) -> None:
        super().answer(number, byte)
        self.unclaimed = min(self.unclaimed + 1, 16)

    @rule()
    def reset(self) -> None:
        super().reset()
        self.unclaimed = 0

    @rule()
    def a_task_claims(self) -> None:
        assert trio.from_thread.run(self._claims) == (self.unclaimed > 0)
        self.unclaimed = max(self.unclaimed - 1, 0)

    async def _claims(self) -> bool:
        """Claim one if there is one, without waiting."""
        claimed: list[Heartbeat] = []

        async def claim() -> None:
            claimed.append(await self.server.wait_heartbeat(max_age=math.inf))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(claim)
            await settled()
            nursery.cancel_scope.cancel()
        return bool(claimed)


class Waiter:
    """A task that claims a heartbeat, and its result."""

    def __init__(self, server: HeartbeatServer, address: str | None) -> None:
        self.address = address
        self.got: Heartbeat | NoHeartbeatError | None = None
        self._server = server

    async def run(self) -> None:
        try:
            self.got = await self._server.wait_heartbeat(address=self.address, max_age=math.inf)
        except NoHeartbeatError as error:
            self.got = error


NAMES = ("a", "b", "c")


class ComeAndGo(RealServer):
    """Addresses that are added and removed, with clients and claims, while the server runs."""

    once = False
    clients = Bundle("clients")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.result: list[Heartbeat] = []
        super().__init__()
        # The model: the known addresses, and whether each is open; the address of each silent
        # client; the bytes that each client was sent; the unclaimed heartbeats of each address;
        # the tasks that wait.
        self.open = {self.address("a"): True}
        self.silent: dict[int, str] = {}
        self.echoes: dict[int, bytes] = {}
        self.unclaimed = dict.fromkeys(map(self.address, NAMES), 0)
        self.waiters: list[Waiter] = []
        self.failed: list[Waiter] = []
        self.done = False
        self.expected: list[str] = []

    def address(self, name: str) -> str:
        return f"unix:{self.directory.name}/{name}"

    async def serve(self, task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        self.result = await serve_heartbeat(
            self.address("a"),
            keep=not self.once,
            on_event=self.events.append,
            task_status=task_status,
        )

    @rule(name=st.sampled_from(NAMES))
    def listen(self, name: str) -> None:
        """Listen on each address once. One that has answered can be used again."""
        address = self.address(name)
        if self.done or self.open.get(address):
            with pytest.raises(UsageError, match="has ended" if self.done else "already"):
                self.do(self.server.listen, address)
            return
        assert str(self.do(self.server.listen, address)) == address
        self.open.pop(address, None)
        self.open[address] = True

    @rule()
    def listen_in_a_directory_that_is_not_there_yet(self) -> None:
        with pytest.raises((ListenError, UsageError)):
            self.do(self.server.listen, self.address("later/a"))

    @rule(name=st.sampled_from(NAMES))
    def unlisten(self, name: str) -> None:
        """Connections and claims of the address end."""
        address = self.address(name)
        if address not in self.open:
            with pytest.raises(UsageError, match="does not listen"):
                self.do(self.server.unlisten, address)
            return
        self.do(self.server.unlisten, address)
        self.forget(address)
        self.end_if_all_have_answered()

    @rule(names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=6))
    def come_and_go_at_once(self, names: list[str]) -> None:
        """Listen and unlisten, without a checkpoint between them."""

        def toggle() -> None:
            for address in map(self.address, names):
                if address in self.open:
                    self.server.unlisten(address)
                    self.forget(address)
                else:
                    self.server.listen(address)
                    self.open[address] = True

        if not self.done:
            self.do(toggle)
            self.end_if_all_have_answered()

    def forget(self, address: str) -> None:
        del self.open[address]
        self.unclaimed[address] = 0
        self.close(address)

    def close(self, address: str) -> None:
        """Close its connections. The claims that waited get an error."""
        self.silent = {n: where for n, where in self.silent.items() if where != address}
        is_last = not any(self.open.values())
        hopeless = (address, None) if is_last else (address,)
        fail = [each for each in self.waiters if each.address in hopeless]
        self.failed += fail
        self.waiters = [each for each in self.waiters if each not in fail]

    def end_if_all_have_answered(self) -> None:
        if self.once and not self.done and not any(self.open.values()):
            self.done = True
            self.expected = list(self.open)

    @precondition(lambda self: any(self.open.values()))
    @rule(target=clients, data=st.data())
    def client_connects(self, data: st.DataObject) -> int:
        number = next(self.numbers)
        address = data.draw(st.sampled_from([it for it, is_open in self.open.items() if is_open]))
        self.real[number] = self.do(Client, address.removeprefix("unix:"))
        self.silent[number] = address
        return number

    @rule(number=clients)
    def client_speaks(self, number: int) -> None:
        self.do(self.real[number].send, B7)
        address = self.silent.pop(number, None)
        if address is None:
            return
        self.echoes[number] = B7
        for waiter in self.waiters:
            if waiter.address in (None, address):
                assert isinstance(waiter.got, Heartbeat)
                self.waiters.remove(waiter)
                break
        else:
            self.unclaimed[address] = min(self.unclaimed[address] + 1, 16)
        if self.once:
            self.open[address] = False
            self.close(address)
            self.end_if_all_have_answered()

    @rule(number=consumes(clients))
    def client_goes(self, number: int) -> None:
        self.do(self.real.pop(number).close)
        self.silent.pop(number, None)

    @rule(name=st.sampled_from((*NAMES, None)))
    def task_claims(self, name: str | None) -> None:
        address = None if name is None else self.address(name)
        if address is not None and address not in self.open:
            with pytest.raises(UsageError, match="does not listen"):
                trio.from_thread.run(partial(self.server.wait_heartbeat, address=address))
            return
        waiter = Waiter(self.server, address)
        self.do(self.nursery.start_soon, waiter.run)
        if any(self.unclaimed[it] for it in self.unclaimed if address in (None, it)):
            assert isinstance(waiter.got, Heartbeat)
            self.unclaimed[str(waiter.got.address)] -= 1
        elif any(is_open for it, is_open in self.open.items() if address in (None, it)):
            self.waiters.append(waiter)
        else:
            assert isinstance(waiter.got, NoHeartbeatError)

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        seen = self.do(lambda: {number: client.look() for number, client in self.real.items()})
        assert seen == {
            number: (self.echoes.get(number, b""), number not in self.silent)
            for number in self.real
        }
        assert [str(address) for address in self.server.addresses] == list(self.open)
        files = {f"unix:{file}" for file in Path(self.directory.name).iterdir()}
        assert files == {address for address, is_open in self.open.items() if is_open}
        assert [each for each in self.waiters if each.got is not None] == []
        assert [each for each in self.failed if not isinstance(each.got, NoHeartbeatError)] == []
        assert self.ended.is_set() == self.done

    @invariant()
    def the_events_tell_the_same(self) -> None:
        """Each address ends once, after all of its connections."""
        for address, is_open in [*self.open.items(), *((self.address(it), None) for it in NAMES)]:
            told = [event for event in self.events if str(event.address) == address]
            silent = 0
            listens = False
            for event in told:
                if event.name in ("listening", "done", "unlistened"):
                    assert silent == 0
                    assert event.name == "unlistened" or listens != (event.name == "listening")
                    listens = event.name == "listening"
                else:
                    assert listens
                    silent += 1 if isinstance(event, Connected) else -1
            assert silent == sum(where == address for where in self.silent.values())
            assert is_open is None or listens == is_open

    @precondition(lambda self: self.done)
    @rule()
    def the_result_has_those_that_answered(self) -> None:
        assert [str(beat.address) for beat in self.result] == self.expected


class ComeAndGoOnce(ComeAndGo):
    """The same without keep: an address closes after its heartbeat, the server after its last."""

    once = True


# Each of them takes 0.1 s.
FEW = settings(max_examples=max(15, settings().max_examples // 10))


@pytest.mark.hypothesis  # so that "nox -s thorough" selects it
@pytest.mark.parametrize("model", [SeedDevice, Strict, Keep, ComeAndGo, ComeAndGoOnce])
def test_the_server_matches_the_model(model: type[RuleBasedStateMachine]) -> None:
    clock = MockClock()

    async def beside() -> None:
        async with trio.open_nursery() as nursery:
            # Created here, because Hypothesis creates the machine without arguments.
            machine: Any = type(model.__name__, (model,), {"clock": clock, "nursery": nursery})
            await trio.to_thread.run_sync(partial(run_state_machine_as_test, machine, settings=FEW))

    trio.run(beside, clock=clock)
