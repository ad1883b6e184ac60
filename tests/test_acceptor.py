# SPDX-License-Identifier: Apache-2.0
"""Pending connections: polled for a moment, left to a handler task, evicted.

A test runs as a task beside the listener task, and acts only at checkpoints of that task. Here that
task polls pending connections for as long as a test needs.
"""

import errno
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from nitrohb import (
    Disconnected,
    Event,
    Heartbeat,
    HeartbeatServer,
    Rejected,
    RejectReason,
    acceptor,
    serve_heartbeat,
)
from nitrohb.sockets import syscalls
from tests.support import B7, Client, beat, names, serving, settled

FOR_EVER = 10**15  # nanoseconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


@pytest.fixture
def looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pending connection is always polled, and never gets a handler task."""
    monkeypatch.setattr(acceptor, "_POLL_FOR_BYTES", FOR_EVER)
    monkeypatch.setattr(acceptor, "_POLL_SLICE", 0)


class Poll:
    """A poll object that fails if one of its descriptors is closed."""

    def __init__(self) -> None:
        self._real = select.poll()
        self.register, self.unregister = self._real.register, self._real.unregister

    def poll(self, timeout: int) -> list[tuple[int, int]]:
        ready = self._real.poll(timeout)
        assert not any(event & select.POLLNVAL for _, event in ready)
        return ready


@pytest.fixture(autouse=True)
def _closed_descriptors_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "select", SimpleNamespace(poll=Poll, POLLIN=select.POLLIN))


async def until(condition: Callable[[], object]) -> None:
    """Let the server run until a condition is true. It might never be idle here."""
    with trio.fail_after(60):
        while not condition():
            await trio.lowlevel.checkpoint()


def handlers() -> int:
    """The number of handler tasks."""
    return sum(task.name.startswith("handler") for task in _tasks())


def _tasks() -> list[trio.lowlevel.Task]:
    found = [root] if (root := trio.lowlevel.current_root_task()) else []
    for task in found:
        for nursery in task.child_nurseries:
            found += nursery.child_tasks
    return found


@pytest.mark.usefixtures("looks_on")
async def test_a_byte_a_moment_later_is_answered_without_a_task(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            await until(lambda: len(events) == 2)
            assert handlers() == 0
            client.send(B7)
            await until(lambda: client.look() == (B7, True))
            await settled()
    assert names(events) == ["listening", "connected", "heartbeat", "done"]


@pytest.mark.usefixtures("looks_on")
async def test_more_than_a_few_pending_connections_are_left_to_tasks(path: Path) -> None:
    async with serving(f"unix:{path}", keep=True) as events:
        with ExitStack() as clients:
            crowd = [clients.enter_context(Client(path)) for _ in range(6)]
            await until(lambda: len(events) == 7)
            assert handlers() == 2
            for client in crowd:
                client.send(B7)
            await until(lambda: all(client.look() == (B7, True) for client in crowd))
    assert names(events).count("heartbeat") == 6


async def test_one_that_stays_silent_is_left_to_a_task(path: Path) -> None:
    async with serving(f"unix:{path}"):
        with Client(path) as client:
            await settled()
            assert handlers() == 1
            await beat(client)


async def test_a_silent_one_is_left_to_a_task_while_others_keep_coming(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task keeps its deadline, even if the listener task is busy."""
    now = 0
    monkeypatch.setattr(acceptor, "time", SimpleNamespace(monotonic_ns=lambda: now, time=time.time))
    monkeypatch.setattr(acceptor, "_POLL_FOR_BYTES", 300)
    monkeypatch.setattr(acceptor, "_POLL_SLICE", 0)
    async with serving(f"unix:{path}", keep=True) as events:
        with Client(path):
            await until(lambda: len(events) == 2)
            now += 150
            with Client(path) as enclave:
                enclave.send(B7)
                await until(lambda: enclave.look() == (B7, True))
            assert handlers() == 0
            now += 150
            await until(lambda: handlers() == 1)
            now += FOR_EVER


@pytest.mark.usefixtures("looks_on")
async def test_while_it_polls_another_connection_is_answered(path: Path) -> None:
    async with serving(f"unix:{path}", keep=True) as events:
        with Client(path), Client(path) as second:
            await until(lambda: len(events) == 3)
            with Client(path) as third:
                third.send(B7)
                await until(lambda: third.look() == (B7, True))
            assert second.look() == (b"", False)


@pytest.mark.usefixtures("looks_on")
async def test_an_answer_ends_a_polled_connection_too(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as silent, Client(path) as enclave:
            await until(lambda: len(events) == 3)
            enclave.send(B7)
            await until(lambda: silent.look() == (b"", True))
            await settled()
    assert names(events)[3:] == ["heartbeat", "rejected", "done"]


@pytest.mark.usefixtures("looks_on")
async def test_a_connection_that_is_polled_can_be_evicted(path: Path) -> None:
    async with serving(f"unix:{path}", keep=True, max_pending=1) as events:
        with Client(path) as first, Client(path) as second:
            await until(lambda: first.look() == (b"", True))
            second.send(B7)
            await until(lambda: second.look() == (B7, True))
            with Client(path) as third:  # its descriptor has the number of the evicted one
                third.send(B7)
                await until(lambda: third.look() == (B7, True))
    assert names(events)[1:4] == ["connected", "connected", "evicted"]


@pytest.mark.usefixtures("looks_on")
async def test_a_callback_that_fails_during_polling_leaves_nothing_open(path: Path) -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, Disconnected):
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, f"unix:{path}", on_event=on_event))
            with Client(path), Client(path) as leaving:
                await trio.lowlevel.checkpoint()
                leaving.half_close()
                await trio.sleep_forever()


@pytest.mark.usefixtures("looks_on")
async def test_an_echo_into_a_full_buffer_is_left_to_a_task(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = False

    def write(fd: int, data: bytes) -> int:
        if not room:
            raise BlockingIOError
        return os.write(fd, data)

    monkeypatch.setattr(syscalls, "os", SimpleNamespace(read=os.read, write=write))
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            await until(lambda: len(events) == 2)
            client.send(B7)
            await until(lambda: handlers() == 1)
            room = True
            await until(lambda: client.look() == (B7, True))
            await settled()
    assert names(events) == ["listening", "connected", "heartbeat", "done"]


ATTEMPTS = range(10)  # trio runs two tasks that are due in any order


async def test_at_its_deadline_it_is_evicted_or_times_out_not_both(
    path: Path, mock_clock: MockClock
) -> None:
    for _ in ATTEMPTS:
        async with serving(f"unix:{path}", keep=True, max_pending=1) as events:
            with Client(path):
                await settled()
                mock_clock.jump(5)
                with Client(path):
                    await settled()
        assert len({"evicted", "rejected"} & {*names(events)}) == 1
        assert len(events) == 4


async def test_a_byte_before_the_deadline_is_answered_even_if_it_is_read_late(
    path: Path, mock_clock: MockClock
) -> None:
    """For example after a SIGSTOP, or after the machine was suspended."""
    for _ in ATTEMPTS:
        async with serving(f"unix:{path}") as events:
            with Client(path) as client:
                await settled()
                client.send(B7)
                mock_clock.jump(6)
                await settled()
                assert client.look() == (B7, True)
        assert names(events) == ["listening", "connected", "heartbeat", "done"]


async def test_a_byte_at_the_last_moment_is_answered_and_its_connection_not_evicted(
    path: Path,
) -> None:
    for _ in ATTEMPTS:
        async with serving(f"unix:{path}", keep=True, max_pending=1) as events:
            with Client(path) as first:
                await settled()
                first.send(B7)  # at the same time as another connection
                with Client(path) as second:
                    await settled()
                    assert first.look() == (B7, True)
                    assert second.look() == (b"", False)
        assert sorted(names(events)) == ["connected", "connected", "heartbeat", "listening"]


@pytest.mark.parametrize("keep", [False, True])
async def test_a_new_connection_is_reported_although_its_eviction_closes_the_address(
    path: Path, keep: bool
) -> None:
    """The byte of the evicted one ends a one-shot address. on_event removes the other kind."""
    reason = RejectReason.UNLISTENED if keep else RejectReason.ALREADY_ANSWERED
    rejected: list[Rejected] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Rejected):
            rejected.append(event)
        elif isinstance(event, Heartbeat) and keep:
            server.unlisten(f"unix:{path}")

    while not rejected:  # trio may run the handler of the first one before
        async with trio.open_nursery() as nursery:
            serve = partial(serve_heartbeat, f"unix:{path}", keep=keep, max_pending=1)
            server: HeartbeatServer = await nursery.start(partial(serve, on_event=on_event))
            with Client(path) as first:
                await settled()
                first.send(B7)
                with Client(path) as second:
                    await until(lambda: second.look() == (b"", True))
            nursery.cancel_scope.cancel()
    assert [event.reason for event in rejected] == [reason]


async def test_a_heartbeat_with_a_full_buffer_is_evicted_as_a_heartbeat(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, data: bytes) -> int:
        raise BlockingIOError(errno.EAGAIN, "no room")

    monkeypatch.setattr(syscalls, "os", SimpleNamespace(read=os.read, write=write))
    async with serving(f"unix:{path}", keep=True, max_pending=1) as events:
        with Client(path) as first, Client(path):
            first.send(B7)
            await until(lambda: len(events) == 4)
    assert [event.echoed for event in events if isinstance(event, Heartbeat)] == [False]
    assert "evicted" not in names(events)


async def test_while_an_echo_waits_no_other_connection_is_answered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, data: bytes) -> int:
        raise BlockingIOError(errno.EAGAIN, "no room")

    monkeypatch.setattr(syscalls, "os", SimpleNamespace(read=os.read, write=write))
    async with serving(f"unix:{path}") as events:
        with Client(path) as first, Client(path) as second:
            first.send(B7)
            second.send(B7)
            await until(lambda: second.look() == (b"", True))
            assert first.look() == (b"", False)
    (rejected,) = [event for event in events if isinstance(event, Rejected)]
    assert (rejected.reason, rejected.byte) == (RejectReason.ALREADY_ANSWERED, 0xB7)


@pytest.mark.usefixtures("looks_on")
async def test_a_removed_address_is_not_polled(path: Path) -> None:
    """The listener task polls until a checkpoint ends it."""
    async with trio.open_nursery() as nursery:
        serve = partial(serve_heartbeat, f"unix:{path}", keep=True)
        server: HeartbeatServer = await nursery.start(serve)
        with Client(path) as client:
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            server.unlisten(f"unix:{path}")
            await settled()
            assert client.look() == (b"", True)
        nursery.cancel_scope.cancel()


async def test_on_a_unix_socket_another_process_is_another_peer(path: Path) -> None:
    """Its flood evicts only its own connections, although ours is the oldest."""
    clients = Path(__file__).parent / "floods" / "clients.py"
    flood = [sys.executable, "-IS", str(clients), "silent", f"unix:{path}", "20"]
    async with serving(f"unix:{path}", max_pending=4) as events:
        with Client(path) as ours:
            await settled()
            process = await trio.lowlevel.open_process(
                flood, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert process.stdin is not None
            assert process.stdout is not None
            async with process.stdin, process.stdout:
                assert b"goal" in await process.stdout.receive_some()
                await settled()
                await beat(ours)
            await process.wait()
    assert names(events).count("evicted") >= 16
