# SPDX-License-Identifier: Apache-2.0
"""A cancellation at any step of a scenario leaves nothing behind."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from nitrohb import send_heartbeat, serve_heartbeat
from tests.conftest import open_descriptors
from tests.support import B7, Client, settled

Scenario = Callable[[Path], Awaitable[None]]


class CutAt(trio.abc.Instrument):
    """Cancels a scope just before the n-th step of any task."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self.step = step
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self.step:
            self.scope.cancel()

    @property
    def was_too_late(self) -> bool:
        return not self.scope.cancelled_caught


async def serve_two_addresses(directory: Path) -> None:
    """A boot with silence, a wrong byte, an early close and two heartbeats."""
    paths = [directory / "a", directory / "b"]
    with ExitStack() as clients:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, *(f"unix:{path}" for path in paths)))
            silent, wrong, gone, *enclaves = (
                clients.enter_context(Client(path)) for path in [paths[0]] * 3 + paths
            )
            await settled()
            wrong.send(b"\x00")
            gone.close()
            await settled()
            for enclave in enclaves:
                enclave.send(B7)
                await settled()
        assert [client.look() for client in enclaves] == [(B7, True)] * 2
        assert silent.look() == (b"", True)


async def let_a_deadline_pass(directory: Path) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_heartbeat, f"unix:{directory}/hb", keep=True)
        await nursery.start(serve)
        with Client(directory / "hb") as client:
            await trio.sleep(6)  # the handshake takes 5
            assert client.look() == (b"", True)
        nursery.cancel_scope.cancel()


async def send_and_be_answered(directory: Path) -> None:
    address = f"unix:{directory}/hb"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_heartbeat, address)
        await send_heartbeat(address)


async def lose_a_socket_file(directory: Path) -> None:
    """A socket file is deleted while a client is in its queue, replaced, and created again."""
    path, other = directory / "hb", directory / "other"
    async with trio.open_nursery() as nursery:
        with ExitStack() as closing:
            closing.callback(other.unlink, missing_ok=True)
            await nursery.start(partial(serve_heartbeat, f"unix:{path}", keep=True))
            await settled()
            client = closing.enter_context(Client(path))
            path.unlink()
            client.send(B7)
            await trio.sleep(1)
            assert client.look() == (B7, True)
            other.write_text("precious")
            closing.callback(remove, path, other.stat().st_ino)
            other.rename(path)
            await trio.sleep(1)
            path.unlink()
            await trio.sleep(1)
            await send_heartbeat(f"unix:{path}")
        nursery.cancel_scope.cancel()


def remove(path: Path, inode: int) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode and path.is_file():
            path.unlink()


@pytest.mark.parametrize(
    "scenario",
    [serve_two_addresses, let_a_deadline_pass, send_and_be_answered, lose_a_socket_file],
)
def test_nothing_is_left_behind_wherever_it_is_cut(scenario: Scenario, tmp_path: Path) -> None:
    async def cuttable(cut: CutAt) -> None:
        with cut.scope:
            await scenario(tmp_path)

    before = open_descriptors()
    step, cut = 0, CutAt(0)
    while step == 0 or not cut.was_too_late:
        step += 1
        cut = CutAt(step)
        trio.run(cuttable, cut, clock=MockClock(autojump_threshold=0), instruments=[cut])
        assert open_descriptors() == before, f"cut at step {step}"
        assert not list(tmp_path.iterdir()), f"cut at step {step}"
    assert step > 10  # there were steps, and each of them was cut
