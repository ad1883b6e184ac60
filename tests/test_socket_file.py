# SPDX-License-Identifier: Apache-2.0
"""Socket files that other processes delete or replace. Real files, virtual time."""

import errno
import fcntl
import itertools
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from nitrohb import (
    Event,
    Heartbeat,
    HeartbeatServer,
    Listener,
    Listening,
    Lost,
    UnixAddress,
    open_listeners,
    serve_heartbeat,
)
from tests.support import B7, Client, beat, names, serving, settled

LOST_AND_FOUND = ["listening", "lost", "listening"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "vms").mkdir()
    return tmp_path / "vms" / "hb"


def leave_dead_socket(path: Path | str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def others_listen(path: Path | str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@asynccontextmanager
async def kept(path: Path | str) -> AsyncGenerator[list[Event]]:
    """Run a server with ``keep`` on a path. Yields its events."""
    async with serving(f"unix:{path}", keep=True) as events:
        await settled()
        yield events


async def noticed(clock: MockClock) -> None:
    """Wait until the server has checked its socket files, which it does twice a second."""
    clock.jump(0.5)
    await settled()


def lost(events: list[Event]) -> Lost:
    (event,) = (event for event in events if isinstance(event, Lost))
    return event


def problem(events: list[Event]) -> str:
    return lost(events).problem or ""


def put_a_dead_socket_over_it(path: Path) -> None:
    leave_dead_socket(f"{path}.dead")
    os.rename(f"{path}.dead", path)


LOSSES: dict[str, Callable[[Path], object]] = {
    "delete": Path.unlink,
    "rename": lambda path: path.rename(path.with_name("elsewhere")),
    "delete the directory": lambda path: shutil.rmtree(path.parent),
    "rename the directory": lambda path: path.parent.rename(path.parent.with_name("old")),
    "rename one above": lambda path: path.parents[1].rename(path.parents[1].with_name("old")),
    "replace": put_a_dead_socket_over_it,
}


@pytest.mark.parametrize("scheme", ["unix", "hybrid"])
async def test_a_lost_file_is_noticed_and_created_again(
    scheme: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    for how, lose in LOSSES.items():
        vm = tmp_path / how / "vms" / "hb"
        vm.parent.mkdir(parents=True)
        suffix, port = ("_1", ":1") if scheme == "hybrid" else ("", "")
        path, address = Path(f"{vm}{suffix}"), f"{scheme}:{vm}{port}"
        async with serving(address, keep=True) as events:
            await noticed(mock_clock)
            lose(path)
            path.parent.mkdir(parents=True, exist_ok=True)  # before the server checks
            await noticed(mock_clock)
            assert names(events) == LOST_AND_FOUND, how
            assert {str(event.address) for event in events} == {address}
            assert lost(events).replaced == (how == "replace"), how
            assert lost(events).problem is None, how
            await beat(Client(path))
            assert names(events) == [*LOST_AND_FOUND, "connected", "heartbeat"]
        assert not path.exists(), how


async def test_a_link_on_the_way_that_leads_elsewhere(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "now").symlink_to("one")
    async with serving(f"unix:{tmp_path}/now/hb", keep=True) as events:
        await noticed(mock_clock)
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(tmp_path / "now")
        await noticed(mock_clock)
        assert names(events) == LOST_AND_FOUND
        await beat(Client(tmp_path / "two" / "hb"))


async def test_clients_that_connected_before_are_answered(
    path: Path, mock_clock: MockClock
) -> None:
    with ExitStack() as closing:
        async with kept(path) as events:
            silent = closing.enter_context(Client(path))
            await noticed(mock_clock)
            queue = [closing.enter_context(Client(path)) for _ in range(100)]  # more than a batch
            path.unlink()
            await noticed(mock_clock)
            after = closing.enter_context(Client(path))
            for client in (silent, *queue, after):
                client.send(B7)
            await noticed(mock_clock)
            assert {client.look() for client in (silent, *queue, after)} == {(B7, True)}
            assert sum(isinstance(event, Heartbeat) for event in events) == 102


async def test_a_queue_that_cannot_be_emptied_at_once(
    path: Path, autojump_clock: MockClock
) -> None:
    """No descriptor is free, and no connection can be evicted. Later a descriptor is free."""
    (listener,) = open_listeners([UnixAddress(str(path))])
    accept, failures = listener.accept, [errno.EMFILE] * 3

    def exhausted() -> Any:
        if failures:
            raise OSError(failures.pop(), "no more")
        return accept()

    listener.accept = exhausted  # type: ignore[method-assign]
    with Client(path) as client:
        async with serving(listener, keep=True):
            path.unlink()
            client.send(B7)
            await trio.sleep(1)
            assert not failures
            assert client.look() == (B7, True)


@pytest.fixture
def stalled(path: Path, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """A listener that accepts nothing until its socket file is created again."""
    (listener,) = open_listeners([UnixAddress(str(path))])
    accept, reopen = listener.accept, listener.reopen
    monkeypatch.setattr(listener, "accept", Mock(side_effect=OSError(errno.EMFILE, "no more")))

    def reopened() -> Listener:
        monkeypatch.setattr(listener, "accept", accept)
        return reopen()

    monkeypatch.setattr(listener, "reopen", reopened)
    return listener


async def test_a_silent_connection_of_the_old_backlog_is_answered(
    path: Path, stalled: Listener, mock_clock: MockClock
) -> None:
    async with serving(stalled, keep=True) as events:
        await settled()
        with Client(path) as client:
            path.unlink()
            await noticed(mock_clock)
            assert names(events)[-1] == "connected"
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)


async def test_a_failure_in_the_old_backlog_closes_its_connections(
    path: Path, stalled: Listener, mock_clock: MockClock
) -> None:
    seen: list[str] = []

    def on_event(event: Event) -> None:
        seen.append(event.name)
        assert seen.count("connected") < 2

    clients: list[Client] = []

    async def fail() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_heartbeat, stalled, keep=True, on_event=on_event))
            await settled()
            clients.extend([Client(path), Client(path)])
            path.unlink()
            await noticed(mock_clock)

    with pytest.raises(ExceptionGroup):
        await fail()
    for client in clients:
        with client:
            assert client.look()[1]
    assert seen.count("connected") == 2


async def test_a_client_in_the_old_queue_ends_a_one_shot_address(
    path: Path, mock_clock: MockClock
) -> None:
    async with serving(f"unix:{path}") as events:
        await noticed(mock_clock)
        with Client(path) as client:
            path.unlink()
            client.send(B7)
            await noticed(mock_clock)
            assert client.look() == (B7, True)
        assert names(events)[-1] == "done"
        assert not path.exists()


async def test_its_own_end_is_not_a_loss(path: Path, mock_clock: MockClock) -> None:
    """A one-shot address removes its own file, while another goes on."""
    async with serving(f"unix:{path}", f"unix:{path}2") as events:
        await beat(Client(path))
        await noticed(mock_clock)
        assert not path.exists()
        assert names(events) == ["listening", "listening", "connected", "heartbeat", "done"]


async def test_a_file_that_is_lost_before_the_server_starts(
    path: Path, mock_clock: MockClock
) -> None:
    """The console script listens long before it has loaded the server."""
    address = UnixAddress(str(path))
    listeners = open_listeners([address], socket_mode=0o620, socket_group=os.getgid())
    path.unlink()
    async with serving(*listeners, keep=True) as events:
        await noticed(mock_clock)
        assert names(events) == LOST_AND_FOUND
        status = path.lstat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o620, os.getgid())
        await beat(Client(path))
    assert not path.exists()


def test_the_new_file_may_look_like_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system, a new file can get the inode number of a deleted one."""

    def be_the_same(_: str) -> tuple[int, int]:
        return 1, 1

    monkeypatch.setattr("nitrohb.sockets.unixfile.identity", be_the_same)
    (old,) = open_listeners([UnixAddress(str(path))])
    path.unlink()
    with old.reopen():
        old.close()
        assert path.is_socket()
    assert not path.exists()


async def test_harmless_changes_are_not_a_loss(path: Path, mock_clock: MockClock) -> None:
    async with kept(path) as events:
        path.chmod(0o660)
        path.parent.chmod(0o700)
        os.link(path, f"{path}.link")
        await noticed(mock_clock)
        os.unlink(f"{path}.link")
        await noticed(mock_clock)
        path.rename(f"{path}.away")
        Path(f"{path}.away").rename(path)
        await noticed(mock_clock)
        assert names(events) == ["listening"]


async def test_a_directory_that_is_gone_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """Its loss is reported once, and so is its return. The server tries again, with pauses."""
    attempts: list[None] = []
    reopen = Listener.reopen

    def count(self: Listener) -> Listener:
        attempts.append(None)
        return reopen(self)

    monkeypatch.setattr(Listener, "reopen", count)
    async with kept(path) as events:
        shutil.rmtree(path.parent)
        await noticed(mock_clock)
        for _ in range(20):
            await noticed(mock_clock)
        assert names(events) == ["listening", "lost"]
        assert f"{path.parent} does not exist (ENOENT)" in problem(events)
        assert len(attempts) == 21
        path.parent.mkdir()
        await noticed(mock_clock)
        assert names(events) == LOST_AND_FOUND
        await beat(Client(path))
    assert not path.exists()


@pytest.mark.parametrize("leaves_its_file", [False, True])
async def test_another_listener_on_the_path_is_left_alone(
    leaves_its_file: bool, path: Path, mock_clock: MockClock
) -> None:
    with others_listen(f"{path}.other") as other:
        async with kept(path) as events:
            os.rename(f"{path}.other", path)
            for _ in range(5):
                await noticed(mock_clock)
            with Client(path):
                other.accept()[0].close()
            assert names(events) == ["listening", "lost"]
            assert lost(events).replaced
            assert "EADDRINUSE" in problem(events)
            other.close()
            if not leaves_its_file:
                path.unlink()
            await noticed(mock_clock)
            assert names(events) == LOST_AND_FOUND
            await beat(Client(path))


async def test_the_server_ends_while_another_process_has_its_path(
    path: Path, mock_clock: MockClock
) -> None:
    async with kept(path) as events:
        path.with_name("other").write_text("precious")
        path.with_name("other").rename(path)
        await noticed(mock_clock)
        assert "is not a socket" in problem(events)
    assert path.read_text() == "precious"


async def test_a_directory_that_is_put_back_with_the_file_in_it(
    path: Path, mock_clock: MockClock
) -> None:
    async with kept(path) as events:
        before = path.lstat().st_ino
        path.parent.rename(path.parent.with_name("away"))
        await noticed(mock_clock)
        with Client(path.parent.with_name("away") / "hb") as client:
            await noticed(mock_clock)
            path.parent.with_name("away").rename(path.parent)
            await noticed(mock_clock)
            assert names(events) == [*LOST_AND_FOUND[:2], "connected", "listening"]
            assert path.lstat().st_ino == before
            client.send(B7)
            await noticed(mock_clock)
            assert client.look() == (B7, True)
        path.unlink()
        await noticed(mock_clock)  # it pauses after each success
        assert names(events)[-2:] == LOST_AND_FOUND[1:]


async def test_two_servers_of_one_path_do_not_use_up_the_cpu(
    path: Path, autojump_clock: MockClock
) -> None:
    async with kept(path) as events:
        for _ in range(200):
            path.unlink(missing_ok=True)
            await trio.sleep(0.05)
        assert 15 <= names(events).count("lost") <= 21, "it took 10 s"


async def test_a_directory_that_can_no_longer_be_searched(
    path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """The server has dropped its privileges, and cannot search the directory."""
    lstat = os.lstat

    def refuse(name: str) -> os.stat_result:
        if name == str(path):
            raise PermissionError(errno.EACCES, "not for you")
        return lstat(name)

    async with kept(path) as events:
        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", refuse)
            path.chmod(0o660)
            await noticed(mock_clock)
        assert names(events) == ["listening"]


async def test_another_current_directory_is_not_a_loss(
    path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    monkeypatch.chdir(path.parent)
    async with kept("hb") as events:
        monkeypatch.chdir("/")
        path.chmod(0o660)
        await noticed(mock_clock)
        assert names(events) == ["listening"]
        path.unlink()
        await noticed(mock_clock)
        assert names(events) == LOST_AND_FOUND
        await beat(Client(path))
    assert not path.exists()


async def test_a_path_that_is_too_long_unless_it_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    async with kept("hb") as events:
        (deep / "hb").unlink()
        await noticed(mock_clock)
        assert names(events) == LOST_AND_FOUND
    async with kept("hb") as events:
        monkeypatch.chdir("/")
        (deep / "hb").unlink()
        await noticed(mock_clock)
        assert "(ENAMETOOLONG)" in problem(events)


async def test_a_directory_that_another_process_has_locked_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("nitrohb.sockets.unixfile.time.sleep", pauses.append)
    fd = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        async with kept(path) as events:
            put_a_dead_socket_over_it(path)
            await noticed(mock_clock)
            assert "another process has locked" in problem(events)
            assert sum(pauses) <= 0.01
    finally:
        os.close(fd)


async def test_inherited_socket_files_are_not_watched(path: Path, mock_clock: MockClock) -> None:
    with others_listen(path) as mine:
        sock = socket.socket(fileno=os.dup(mine.fileno()))
        async with serving(sock, keep=True) as events:
            await noticed(mock_clock)
            path.unlink()
            await noticed(mock_clock)
            assert names(events) == ["listening"]
            assert not path.exists()


async def test_claims_and_rearm_go_on(path: Path, mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_heartbeat, f"unix:{path}", keep=True)
        server: HeartbeatServer = await nursery.start(serve)
        await noticed(mock_clock)
        path.unlink()
        await noticed(mock_clock)
        server.rearm(f"unix:{path}")
        await beat(Client(path))
        assert (await server.wait_heartbeat(address=f"unix:{path}")).echoed
        nursery.cancel_scope.cancel()


async def test_without_a_callback_it_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_heartbeat, f"unix:{path}", keep=True))
        await noticed(autojump_clock)
        path.unlink()
        await noticed(autojump_clock)
        assert not caplog.records, "nobody has to do anything about it"
        shutil.rmtree(path.parent)
        await trio.sleep(0.6)
        nursery.cancel_scope.cancel()
    ((name, level, text),) = caplog.record_tuples
    assert (name, level) == ("nitrohb", logging.WARNING)
    assert text.startswith(f"nitrohb: the socket file of unix:{path} is gone")


@pytest.mark.parametrize("when", [1, 2])
async def test_on_event_that_fails_leaves_nothing_behind(
    when: int, path: Path, autojump_clock: MockClock
) -> None:
    events: list[Event] = []

    def fail(event: Event) -> None:
        events.append(event)
        if len(events) > when:
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, f"unix:{path}", on_event=fail))
            await settled()
            path.unlink()
    assert isinstance(events[-1], (Lost, Listening)[when - 1])
    assert not list(path.parent.iterdir())


class World:
    """A directory in which other processes delete and replace the socket file of a server."""

    def __init__(self, root: str) -> None:
        self.directory = f"{root}/vms"
        self.path = f"{self.directory}/hb"
        os.mkdir(self.directory)
        self.others = ExitStack()
        self.servers: set[int] = set()  # open files, so that their inode numbers are not used again
        self.away: list[str] = []
        self.fresh = map(f"{root}/{{}}".format, itertools.count())

    def put(self, make: Callable[[str], object]) -> None:
        make(name := next(self.fresh))
        if os.path.isdir(self.directory):
            os.rename(name, self.path)

    def put_file(self) -> None:
        self.put(lambda name: Path(name).write_text("precious"))

    def put_dead_socket(self) -> None:
        self.put(leave_dead_socket)

    def put_server(self) -> None:
        def listen(name: str) -> None:
            self.others.enter_context(others_listen(name))
            self.servers.add(os.lstat(name).st_ino)

        self.put(listen)

    def delete(self) -> None:
        if os.path.lexists(self.path):
            os.unlink(self.path)

    def take_directory_away(self) -> None:
        if os.path.isdir(self.directory):
            self.away.append(next(self.fresh))
            os.rename(self.directory, self.away[-1])

    def bring_directory_back(self) -> None:
        if self.away and not os.path.isdir(self.directory):
            os.rename(self.away.pop(), self.directory)

    def make_directory(self) -> None:
        os.makedirs(self.directory, exist_ok=True)

    def kept(self) -> int | None:
        """The inode number of a file, or of a socket on which others listen."""
        if not os.path.lexists(self.path):
            return None
        status = os.lstat(self.path)
        is_others = stat.S_ISREG(status.st_mode) or status.st_ino in self.servers
        return status.st_ino if is_others else None


DEEDS = (
    World.delete,
    World.put_file,
    World.put_dead_socket,
    World.put_server,
    World.take_directory_away,
    World.bring_directory_back,
    World.make_directory,
)


@settings(max_examples=max(25, settings().max_examples // 10))  # slow, for a thousand
@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.sampled_from([0, 0.1, 0.6])), max_size=12))
def test_the_file_comes_back_whatever_other_processes_do(
    deeds: list[tuple[Callable[[World], None], float]],
) -> None:
    async def live(world: World) -> None:
        async with serving(f"unix:{world.path}", keep=True) as events:
            for deed, pause in deeds:
                deed(world)
                kept = world.kept()
                await trio.sleep(pause)
                if kept is not None:
                    assert os.lstat(world.path).st_ino == kept, "it was not ours to touch"
            world.make_directory()
            if world.kept() is not None:
                world.delete()
            await trio.sleep(1)
            await beat(Client(world.path))
            told = "".join(event.name[:2] for event in events if event.name in LOST_AND_FOUND)
            assert re.fullmatch("li(loli)*", told)

    with tempfile.TemporaryDirectory() as root:
        world = World(root)
        with world.others:
            trio.run(live, world, clock=MockClock(autojump_threshold=0))
        assert not os.path.lexists(world.path)
