# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is, in virtual time: in which order, how long after one another, and until when."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from nitrohb.api.turns import PASSES, REST, Queue, Turns
from tests.support import settled


class Passes(trio.abc.Instrument):
    """Counts the passes of the loop: each is a look for new heartbeats."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


class Line:
    """Those who queue, and the turns that they have had: who, in which millisecond."""

    def __init__(self, turns: Turns, nursery: trio.Nursery) -> None:
        self.turns = turns
        self.had: list[tuple[object, int]] = []
        self._nursery = nursery
        self._began = trio.current_time()

    async def queue(self, who: object, queue: Queue) -> None:
        self._nursery.start_soon(self._take, who, queue)
        for _ in range(2):  # after one of them it may be about to run
            await trio.lowlevel.checkpoint()

    async def _take(self, who: object, queue: Queue) -> None:
        await self.turns.take(who, queue)
        self.had.append((who, round((trio.current_time() - self._began) * 1000)))


@asynccontextmanager
async def running() -> AsyncGenerator[Line]:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        await settled()
        yield Line(turns, nursery)
        nursery.cancel_scope.cancel()


async def test_a_turn_comes_at_once_and_the_next_a_rest_later(autojump_clock: MockClock) -> None:
    assert REST == 0.001
    async with running() as line:
        for who in "abcd":
            await line.queue(who, line.turns.receiving)
        await trio.sleep(1)
        assert line.had == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
        await line.queue("a", line.turns.receiving)
        await trio.sleep(1)
        assert line.had[-1] == ("a", 1000)


async def test_a_rest_is_as_long_as_what_was_before_it(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.turns.take("a", line.turns.receiving)
        await line.queue("b", line.turns.receiving)
        autojump_clock.jump(0.005)
        await trio.sleep(1)
        assert line.had == [("b", 10)]


async def test_there_are_many_looks_for_heartbeats_in_a_turn(autojump_clock: MockClock) -> None:
    passes = Passes()
    async with running() as line:
        trio.lowlevel.add_instrument(passes)
        for _ in range(10):
            passes.count = 0
            await line.queue("a", line.turns.receiving)
            await trio.sleep(REST)
            assert passes.count > PASSES


async def test_whose_turn_it_is_need_not_queue(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.queue("a", line.turns.accepted)
        await line.queue("b", line.turns.accepted)
        while not line.had:
            await trio.lowlevel.checkpoint()
        first = line.had[0][0]
        await line.turns.take(first, line.turns.receiving)
        await line.turns.take(first, line.turns.sending)
        assert len(line.had) == 1
        await trio.sleep(REST / 2)
        await line.queue(first, line.turns.receiving)  # its turn is over
        await trio.sleep(1)
        assert [when for _, when in line.had] == [0, 1, 2]


async def test_a_flood_in_one_queue_does_not_hold_up_the_others(autojump_clock: MockClock) -> None:
    async with running() as line:
        for number in range(100):
            await line.queue(number, line.turns.receiving)
        await trio.sleep(0.0105)
        await line.queue("answer", line.turns.sending)
        await line.queue("newcomer", line.turns.accepted)
        await trio.sleep(1)
        when = dict(line.had)
        assert {when["answer"], when["newcomer"]} == {11, 12}
        assert max(when.values()) == 101


async def test_a_client_that_gives_up_is_passed_over(autojump_clock: MockClock) -> None:
    async with running() as line:
        await line.queue("a", line.turns.receiving)
        with trio.move_on_after(REST / 2):
            await line.turns.take("b", line.turns.receiving)
        await line.queue("c", line.turns.receiving)
        await trio.sleep(1)
        assert line.had == [("a", 0), ("c", 1)]


async def test_after_the_end_nobody_has_to_wait(autojump_clock: MockClock) -> None:
    turns = Turns()
    async with trio.open_nursery() as nursery:
        line = Line(turns, nursery)
        async with trio.open_nursery() as running:
            running.start_soon(turns.run)
            for number in range(100):
                await line.queue(number, turns.sending)
            await trio.sleep(REST / 2)
            running.cancel_scope.cancel()
        await line.queue("late", turns.sending)
    assert len(line.had) == 101
    assert {when for _, when in line.had} <= {0, 1}


async def test_many_leave_at_once_but_one_in_each_pass() -> None:
    passes = Passes()
    left: list[int] = []
    turns = Turns()

    async def leave() -> None:
        await turns.leave()
        left.append(passes.count)

    trio.lowlevel.add_instrument(passes)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(leave)
    assert len(set(left)) == len(left) == 100
