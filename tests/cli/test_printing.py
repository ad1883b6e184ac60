# SPDX-License-Identifier: Apache-2.0
"""Events are printed in order, together, after what they tell of, and never lost."""

from datetime import UTC, datetime

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from nitrohb import CID_ANY, Connected, Disconnected, Done, Event, Listening, VsockAddress
from nitrohb.cli.printing import printing

ANY = VsockAddress(CID_ANY, 9000)
PEER = VsockAddress(16, 1234)
TIME = datetime(2025, 1, 2, tzinfo=UTC)

LISTENING = Listening(address=ANY, time=TIME)
CONNECTED = Connected(address=ANY, time=TIME, peer=PEER)
DISCONNECTED = Disconnected(address=ANY, time=TIME, peer=PEER)
DONE = Done(address=ANY, time=TIME)


def name(event: Event) -> str:
    return event.name


async def test_together_what_comes_in_one_pass_of_the_event_loop() -> None:
    printed: list[str] = []
    async with printing(printed.append, name) as show:
        show(LISTENING)
        await wait_all_tasks_blocked()
        show(CONNECTED)
        show(DISCONNECTED)
        assert printed == ["listening"]
        await wait_all_tasks_blocked()
        assert printed == ["listening", "connected\ndisconnected"]
        show(DONE)
        await wait_all_tasks_blocked()
    assert printed == ["listening", "connected\ndisconnected", "done"]


async def test_nothing_comes_of_nothing() -> None:
    async with printing(pytest.fail, name):
        await wait_all_tasks_blocked()


@pytest.mark.parametrize("before", [False, True])
async def test_what_is_left_is_printed_at_the_end(before: bool) -> None:
    printed: list[str] = []
    async with printing(printed.append, name) as show:
        if before:
            await wait_all_tasks_blocked()
        show(CONNECTED)
        show(DONE)
    assert printed == ["connected\ndone"]


async def test_what_is_left_is_printed_after_a_cancellation() -> None:
    printed: list[str] = []
    with trio.CancelScope() as scope:
        async with printing(printed.append, name) as show:
            await wait_all_tasks_blocked()
            show(CONNECTED)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert printed == ["connected"]


async def test_what_is_left_is_printed_after_a_failure() -> None:
    printed: list[str] = []
    with pytest.RaisesGroup(pytest.RaisesExc(ZeroDivisionError)):
        async with printing(printed.append, name) as show:
            show(CONNECTED)
            raise ZeroDivisionError
    assert printed == ["connected"]
