# SPDX-License-Identifier: Apache-2.0
"""The real server, step by step beside a small model of what it should do.

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

from nitrohb import Heartbeat, HeartbeatServer, UsageError, serve_heartbeat
from tests.support import B7, Client, settled

DEADLINE = 5.0


class Machine(RuleBasedStateMachine):
    """What both models share: a real server on a Unix socket, and clients by number."""

    clock: MockClock
    nursery: trio.Nursery
    any_byte: bool
    once = True
    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "hb"
        self.real: dict[int, Client] = {}
        self.numbers = itertools.count()
        self.now = 0.0
        # The model: whether the server has answered and ended, the time of connecting of each
        # client that waits, oldest first, and what each client was sent.
        self.done = False
        self.waiting: dict[int, float] = {}
        self.echoes: dict[int, bytes] = {}
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.server: HeartbeatServer = trio.from_thread.run(self.nursery.start, self._serve)

    async def _serve(self, task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        with self.scope:
            await serve_heartbeat(
                f"unix:{self.path}",
                once=self.once,
                any_byte=self.any_byte,
                task_status=task_status,
            )
        self.ended.set()

    def do(self, step: Any, *args: Any) -> Any:
        """Do something in the server's loop, and let the server come to rest."""

        async def then_settle() -> Any:
            result = step(*args)
            await settled()
            return result

        return trio.from_thread.run(then_settle)

    def answer(self, number: int, byte: bytes) -> None:
        self.echoes[number] = byte
        if self.once:
            self.done = True
            self.waiting.clear()

    @rule()
    def reset(self) -> None:
        """A reset of the machine drops waiting connections. A device that is done is gone."""
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

    def teardown(self) -> None:
        self.do(self.scope.cancel)
        trio.from_thread.run(self.ended.wait)
        for client in self.real.values():
            client.close()
        assert not self.path.exists()
        self.directory.cleanup()


class SeedDevice(Machine):
    """QEMU's device: one client at a time. It echoes the first byte, whatever it is, and is done.

    The server does not keep the others waiting while one is silent. So here only the client whose
    turn it is speaks, while all may come and go: then both must agree.
    """

    any_byte = True

    @precondition(lambda self: self.waiting)
    @rule(data=st.binary(min_size=1, max_size=3))
    def its_turn_and_it_speaks(self, data: bytes) -> None:
        number = next(iter(self.waiting))
        self.do(self.real[number].send, data)
        self.answer(number, data[:1])


class Strict(Machine):
    """Our own rules: any client may speak, only 0xB7 is answered, a silent client is closed."""

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
    """The same, without an end; each heartbeat can be claimed once, until the next reset."""

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


# Each of them takes 0.1 s.
FEW = settings(max_examples=max(15, settings().max_examples // 10))


@pytest.mark.hypothesis  # so that "nox -s thorough" selects it
@pytest.mark.parametrize("model", [SeedDevice, Strict, Keep])
def test_the_server_does_what_the_model_says(model: type[Machine]) -> None:
    clock = MockClock()

    async def beside() -> None:
        async with trio.open_nursery() as nursery:
            # Made here, because Hypothesis makes the machine itself, without arguments.
            machine: Any = type(model.__name__, (model,), {"clock": clock, "nursery": nursery})
            await trio.to_thread.run_sync(partial(run_state_machine_as_test, machine, settings=FEW))

    trio.run(beside, clock=clock)
