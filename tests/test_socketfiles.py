# SPDX-License-Identifier: Apache-2.0
"""Socket files that others delete or replace: real files, real inotify, virtual time."""

import errno
import io
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

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
    serve_in_thread,
    socketfiles,
)
from nitrohb.inotify import ATTRIB, MOVE_SELF, Inotify
from tests.support import B7, Client, names, serving, settled
from tests.test_handout import beat

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


def lost(events: list[Event]) -> Lost:
    (event,) = (event for event in events if isinstance(event, Lost))
    return event


def delete(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def delete_with_its_directory(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


def rename_its_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("old"))
    path.parent.mkdir()


def rename_a_directory_above(path: Path) -> None:
    path.parent.parent.rename(path.parent.parent.with_name("old"))
    path.parent.mkdir(parents=True)


def put_a_dead_socket_over_it(path: Path) -> None:
    leave_dead_socket(f"{path}.dead")
    os.rename(f"{path}.dead", path)


@pytest.mark.parametrize(
    "how",
    [
        delete,
        rename,
        delete_with_its_directory,
        rename_its_directory,
        rename_a_directory_above,
        put_a_dead_socket_over_it,
    ],
)
@pytest.mark.parametrize("scheme", ["unix", "hybrid"])
async def test_a_lost_file_is_noticed_at_once_and_made_anew(
    how: Callable[[Path], None], scheme: str, tmp_path: Path, mock_clock: MockClock
) -> None:
    vm = tmp_path / "a" / "vms" / "hb"
    vm.parent.mkdir(parents=True)
    path, address = (vm, f"unix:{vm}") if scheme == "unix" else (Path(f"{vm}_1"), f"hybrid:{vm}:1")
    async with serving(address, once=False) as events:
        await settled()
        how(path)
        await settled()
        assert names(events) == LOST_AND_FOUND
        assert {str(event.address) for event in events} == {address}
        assert lost(events).replaced == (how is put_a_dead_socket_over_it)
        assert lost(events).problem is None
        await beat(Client(path))
        assert names(events) == [*LOST_AND_FOUND, "connected", "heartbeat"]
        assert mock_clock.current_time() == 0, "without waiting"
    assert not path.exists()


async def test_a_link_on_the_way_that_leads_elsewhere(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "now").symlink_to("one")
    async with serving(f"unix:{tmp_path}/now/hb", once=False) as events:
        await settled()
        (tmp_path / "new").symlink_to("two")
        (tmp_path / "new").rename(tmp_path / "now")
        await settled()
        assert names(events) == LOST_AND_FOUND
        await beat(Client(tmp_path / "two" / "hb"))


async def test_who_had_connected_before_is_answered(path: Path, mock_clock: MockClock) -> None:
    with ExitStack() as closing:
        async with serving(f"unix:{path}", once=False) as events:
            await settled()
            silent = closing.enter_context(Client(path))
            await settled()
            queue = [closing.enter_context(Client(path)) for _ in range(100)]  # more than a batch
            path.unlink()
            await settled()
            after = closing.enter_context(Client(path))
            for client in (silent, *queue, after):
                client.send(B7)
            await settled()
            assert {client.look() for client in (silent, *queue, after)} == {(B7, True)}
            assert sum(isinstance(event, Heartbeat) for event in events) == 102


async def test_a_queue_that_cannot_be_emptied_at_once(
    path: Path, autojump_clock: MockClock
) -> None:
    """No descriptor is free, and nobody can be evicted: it goes on as soon as there is one."""
    (listener,) = open_listeners([UnixAddress(str(path))])
    accept, failures = listener.accept, [errno.EMFILE] * 3

    def exhausted() -> Any:
        if failures:
            raise OSError(failures.pop(), "no more")
        return accept()

    listener.accept = exhausted  # type: ignore[method-assign]
    with Client(path) as client:
        async with serving(listener, once=False):
            path.unlink()
            client.send(B7)
            await trio.sleep(1)
            assert not failures
            assert client.look() == (B7, True)


async def test_a_one_shot_address_is_done_with_whoever_waited_in_the_old_queue(
    path: Path, mock_clock: MockClock
) -> None:
    async with serving(f"unix:{path}") as events:
        await settled()
        with Client(path) as client:
            path.unlink()
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)
        assert names(events)[-1] == "done"
        assert not path.exists()


async def test_its_own_end_is_no_loss(path: Path) -> None:
    """A one-shot address removes its own file, while another goes on."""
    async with serving(f"unix:{path}", f"unix:{path}2") as events:
        await beat(Client(path))
        await settled()
        assert not path.exists()
        assert names(events) == ["listening", "listening", "connected", "heartbeat", "done"]


async def test_a_file_that_is_lost_before_the_server_starts(path: Path) -> None:
    """The console script listens long before it has loaded the server."""
    listeners = open_listeners([UnixAddress(str(path))])
    path.unlink()
    async with serving(*listeners, once=False) as events:
        await settled()
        assert names(events) == LOST_AND_FOUND
        await beat(Client(path))
    assert not path.exists()


async def test_mode_and_group_are_the_same_again(path: Path) -> None:
    address = UnixAddress(str(path))
    listeners = open_listeners([address], socket_mode=0o620, socket_group=os.getgid())
    async with serving(*listeners, once=False):
        await settled()
        path.unlink()
        await settled()
        status = path.lstat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o620, os.getgid())


def test_the_new_file_may_look_like_the_old_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another kernel hands out inode numbers, it does so anew as soon as a file is gone."""

    def be_the_same(_: str) -> tuple[int, int]:
        return 1, 1

    monkeypatch.setattr("nitrohb.unixfiles.identity", be_the_same)
    (old,) = open_listeners([UnixAddress(str(path))])
    path.unlink()
    with old.reopen():
        old.close()
        assert path.is_socket()
    assert not path.exists()


async def test_what_makes_no_difference_is_no_loss(path: Path) -> None:
    async with serving(f"unix:{path}", once=False) as events:
        await settled()
        path.chmod(0o660)
        path.parent.chmod(0o700)
        os.link(path, f"{path}.link")
        await settled()
        os.unlink(f"{path}.link")
        await settled()
        path.rename(f"{path}.away")
        Path(f"{path}.away").rename(path)
        await settled()
        assert names(events) == ["listening"]


class Steps(trio.abc.Instrument):
    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("keep_socket_files")


async def test_what_goes_on_beside_it_wakes_nobody(path: Path, autojump_clock: MockClock) -> None:
    async with serving(f"unix:{path}", once=False):
        await settled()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        other = path.with_name("other")
        for _ in range(10):
            other.write_text("x")
            other.chmod(0o600)
            other.rename(path.with_name("third"))
            path.with_name("third").unlink()
            await trio.sleep(10)
        assert steps.count == 0
        path.unlink()
        await trio.sleep(1)
        assert 0 < steps.count < 10


@pytest.fixture
def silent_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketfiles, "LOCAL", frozenset[str]())


@pytest.fixture
def no_inotify(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, "no more of them")

    monkeypatch.setattr(socketfiles, "Inotify", fail)


@pytest.mark.parametrize("case", ["silent_inotify", "no_inotify"])
async def test_where_nobody_tells_it_looks_twice_a_second(
    case: str, path: Path, request: pytest.FixtureRequest, mock_clock: MockClock
) -> None:
    request.getfixturevalue(case)
    async with serving(f"unix:{path}", once=False) as events:
        await settled()
        path.unlink()
        mock_clock.jump(0.49)
        await settled()
        assert names(events) == ["listening"]
        mock_clock.jump(0.01)
        await settled()
        assert names(events) == LOST_AND_FOUND
        path.unlink()
        mock_clock.jump(0.5)
        await settled()
        assert names(events) == [*LOST_AND_FOUND, *LOST_AND_FOUND[1:]]


def test_the_file_system_of_a_directory() -> None:
    assert socketfiles.file_system("/proc") == "proc"


def test_a_mount_that_is_not_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a chroot, of whose root nothing is known."""

    def see_no_mounts(path: str, **_: object) -> io.StringIO:
        return io.StringIO("" if path.endswith("mountinfo") else Path(path).read_text())

    monkeypatch.setattr(socketfiles, "open", see_no_mounts, raising=False)
    assert socketfiles.file_system("/") == ""


async def test_a_directory_that_stays_away(path: Path, mock_clock: MockClock) -> None:
    """It is told once; it is tried again, but not all the time; and the return is told."""
    attempts: list[None] = []
    reopen = Listener.reopen

    def count(self: Listener) -> Listener:
        attempts.append(None)
        return reopen(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Listener, "reopen", count)
        async with serving(f"unix:{path}", once=False) as events:
            await settled()
            shutil.rmtree(path.parent)
            await settled()
            for _ in range(20):
                mock_clock.jump(0.5)
                await settled()
            assert names(events) == ["listening", "lost"]
            assert f"{path.parent} does not exist (ENOENT)" in (lost(events).problem or "")
            assert len(attempts) == 21
            path.parent.mkdir()
            mock_clock.jump(0.5)
            await settled()
            assert names(events) == LOST_AND_FOUND
            await beat(Client(path))
    assert not path.exists()


@pytest.mark.parametrize("leaves_its_file", [False, True])
async def test_who_listens_there_now_is_left_alone(
    leaves_its_file: bool, path: Path, mock_clock: MockClock
) -> None:
    with others_listen(f"{path}.other") as other:
        async with serving(f"unix:{path}", once=False) as events:
            await settled()
            os.rename(f"{path}.other", path)
            for _ in range(5):
                await settled()
                mock_clock.jump(0.5)
            with Client(path):
                other.accept()[0].close()
            assert names(events) == ["listening", "lost"]
            assert lost(events).replaced
            assert "another process listens there" in (lost(events).problem or "")
            other.close()
            if not leaves_its_file:
                path.unlink()
            mock_clock.jump(0.5)
            await settled()
            assert names(events) == LOST_AND_FOUND
            await beat(Client(path))


async def test_the_server_ends_while_others_have_its_place(path: Path) -> None:
    async with serving(f"unix:{path}", once=False) as events:
        await settled()
        path.with_name("other").write_text("precious")
        path.with_name("other").rename(path)
        await settled()
        assert "is not a socket" in (lost(events).problem or "")
    assert path.read_text() == "precious"


async def test_a_directory_that_is_put_back_with_the_file_in_it(
    path: Path, mock_clock: MockClock
) -> None:
    async with serving(f"unix:{path}", once=False) as events:
        await settled()
        before = path.lstat().st_ino
        path.parent.rename(path.parent.with_name("away"))
        await settled()
        with Client(path.parent.with_name("away") / "hb") as client:
            await settled()
            path.parent.with_name("away").rename(path.parent)
            mock_clock.jump(0.5)
            await settled()
            assert names(events) == [*LOST_AND_FOUND[:2], "connected", "listening"]
            assert path.lstat().st_ino == before
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)
        path.unlink()
        mock_clock.jump(0.5)  # it rests after each success
        await settled()
        assert names(events)[-2:] == LOST_AND_FOUND[1:]


async def test_a_fight_over_a_path_does_not_take_up_the_loop(
    path: Path, autojump_clock: MockClock
) -> None:
    async with serving(f"unix:{path}", once=False) as events:
        await settled()
        for _ in range(200):
            path.unlink(missing_ok=True)
            await trio.sleep(0.05)
        assert 15 <= names(events).count("lost") <= 21, "it took 10 s"


async def test_a_file_may_not_be_seen_any_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has dropped its privileges, and may not look into the directory."""
    lstat = os.lstat

    def refuse(name: str) -> os.stat_result:
        if name == str(path):
            raise PermissionError(errno.EACCES, "not for you")
        return lstat(name)

    async with serving(f"unix:{path}", once=False) as events:
        await settled()
        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", refuse)
            path.chmod(0o660)
            await settled()
        assert names(events) == ["listening"]


async def test_another_current_directory_is_no_loss(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    async with serving("unix:hb", once=False) as events:
        await settled()
        monkeypatch.chdir("/")
        path.chmod(0o660)
        await settled()
        assert names(events) == ["listening"]
        path.unlink()
        await settled()
        assert names(events) == LOST_AND_FOUND
        await beat(Client(path))
    assert not path.exists()


@pytest.mark.parametrize("stays", [True, False])
async def test_a_path_that_is_too_long_unless_it_is_relative(
    stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    async with serving("unix:hb", once=False) as events:
        await settled()
        if not stays:
            monkeypatch.chdir("/")
        (deep / "hb").unlink()
        await settled()
        if stays:
            assert names(events) == LOST_AND_FOUND
        else:
            assert "File name too long (ENAMETOOLONG)" in (lost(events).problem or "")


async def test_a_directory_that_another_process_has_locked_is_not_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    pauses: list[float] = []
    monkeypatch.setattr("nitrohb.unixfiles.time.sleep", pauses.append)
    fd = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        async with serving(f"unix:{path}", once=False) as events:
            await settled()
            put_a_dead_socket_over_it(path)
            await settled()
            assert "another process has locked" in (lost(events).problem or "")
            assert sum(pauses) <= 0.01
    finally:
        os.close(fd)


async def test_sockets_that_others_have_made_are_left_to_them(path: Path) -> None:
    with others_listen(path) as mine:
        sock = socket.socket(fileno=os.dup(mine.fileno()))
        async with serving(sock, once=False) as events:
            await settled()
            path.unlink()
            await settled()
            assert names(events) == ["listening"]
            assert not path.exists()


async def test_claims_and_rearm_go_on(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(serve_heartbeat, f"unix:{path}", once=False)
        server: HeartbeatServer = await nursery.start(serve)
        await settled()
        path.unlink()
        await settled()
        server.rearm(f"unix:{path}")
        await beat(Client(path))
        assert (await server.wait_heartbeat(address=f"unix:{path}")).echoed
        nursery.cancel_scope.cancel()


async def test_without_anybody_to_tell_it_is_in_the_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_heartbeat, f"unix:{path}", once=False))
        await settled()
        path.unlink()
        await settled()
        assert not caplog.records, "nobody has to do anything about it"
        shutil.rmtree(path.parent)
        await trio.sleep(0.6)
        nursery.cancel_scope.cancel()
    ((name, level, text),) = caplog.record_tuples
    assert (name, level) == ("nitrohb", logging.ERROR)
    assert text.startswith(f"nitrohb: the socket file of unix:{path} is gone")


@pytest.mark.parametrize("when", [1, 2])
async def test_on_event_that_fails_leaves_nothing_behind(when: int, path: Path) -> None:
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


def test_a_server_in_a_thread(path: Path) -> None:
    again = threading.Semaphore(0)

    def on_event(event: Event) -> None:
        if isinstance(event, Listening):
            again.release()

    with serve_in_thread(f"unix:{path}", once=False, on_event=on_event) as server:
        assert again.acquire(timeout=30)
        path.unlink()
        assert again.acquire(timeout=30)
        with socket.socket(socket.AF_UNIX) as enclave:
            enclave.connect(str(path))
            enclave.sendall(B7)
            assert enclave.recv(1) == B7
        assert server.wait_heartbeat(timeout=30).echoed
    assert not path.exists()


@pytest.fixture
def inotify() -> Iterator[Inotify]:
    with Inotify() as inotify:
        yield inotify


def has_been_told(inotify: Inotify) -> bool:
    try:
        return bool(os.read(inotify.fileno(), 4096))
    except BlockingIOError:
        return False


def test_inotify_watches_what_it_was_told_last(inotify: Inotify, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    two.touch()
    inotify.watch({str(one): ATTRIB})
    inotify.watch({str(two): ATTRIB})
    inotify.clear()
    one.chmod(0o600)
    assert not has_been_told(inotify)
    two.chmod(0o600)
    assert has_been_told(inotify)
    two.unlink()  # the system watches it no more by itself
    inotify.watch({str(one): MOVE_SELF})
    inotify.clear()
    inotify.clear()
    assert not has_been_told(inotify)


def test_inotify_watches_all_or_says_so(inotify: Inotify, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        inotify.watch({str(tmp_path): MOVE_SELF, str(tmp_path / "nothing"): MOVE_SELF})


class World:
    """A directory in which others do what they like with a server's socket file."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.directory = f"{root}/vms"
        self.path = f"{self.directory}/hb"
        os.mkdir(self.directory)
        self.others: list[socket.socket] = []
        self.servers: set[int] = set()  # inode numbers, not used again as long as they are open
        self.away: list[str] = []
        self.count = 0

    def fresh(self) -> str:
        self.count += 1
        return f"{self.root}/{self.count}"

    def put_over(self, what: str) -> None:
        if os.path.isdir(self.directory):
            os.rename(what, self.path)

    def delete(self) -> None:
        if os.path.lexists(self.path):
            os.unlink(self.path)

    def put_file(self) -> None:
        name = self.fresh()
        Path(name).write_text("precious")
        self.put_over(name)

    def put_dead_socket(self) -> None:
        name = self.fresh()
        leave_dead_socket(name)
        self.put_over(name)

    def put_server(self) -> None:
        name = self.fresh()
        self.others.append(others_listen(name))
        self.servers.add(os.lstat(name).st_ino)
        self.put_over(name)

    def take_directory_away(self) -> None:
        if os.path.isdir(self.directory):
            self.away.append(self.fresh())
            os.rename(self.directory, self.away[-1])

    def bring_directory_back(self) -> None:
        if self.away and not os.path.isdir(self.directory):
            os.rename(self.away.pop(), self.directory)

    def make_directory(self) -> None:
        os.makedirs(self.directory, exist_ok=True)

    def is_kept(self) -> bool:
        """Whether there is a file, or a socket on which others listen."""
        if not os.path.lexists(self.path):
            return False
        status = os.lstat(self.path)
        return stat.S_ISREG(status.st_mode) or status.st_ino in self.servers

    def close(self) -> None:
        for other in self.others:
            other.close()


DEEDS = (
    World.delete,
    World.put_file,
    World.put_dead_socket,
    World.put_server,
    World.take_directory_away,
    World.bring_directory_back,
    World.make_directory,
)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.sampled_from([0, 0.1, 0.6])), max_size=12))
def test_whatever_others_do_it_is_there_when_they_let_it(
    deeds: list[tuple[Callable[[World], None], float]],
) -> None:
    async def live(world: World) -> None:
        events: list[Event] = []
        async with trio.open_nursery() as nursery:
            serve = partial(serve_heartbeat, f"unix:{world.path}", once=False)
            await nursery.start(partial(serve, on_event=events.append))
            for deed, pause in deeds:
                deed(world)
                kept = os.lstat(world.path).st_ino if world.is_kept() else None
                await trio.sleep(pause)
                if kept is not None:
                    assert os.lstat(world.path).st_ino == kept, "it was not ours to touch"
            world.make_directory()
            if world.is_kept():
                world.delete()
            await trio.sleep(1)
            with Client(world.path) as client:
                client.send(B7)
                await settled()
                assert client.look() == (B7, True)
            told = "".join(event.name[:2] for event in events if event.name in LOST_AND_FOUND)
            assert re.fullmatch("li(loli)*", told)
            nursery.cancel_scope.cancel()

    with tempfile.TemporaryDirectory() as root:
        world = World(root)
        try:
            trio.run(live, world, clock=MockClock(autojump_threshold=0))
        finally:
            world.close()
        assert not os.path.lexists(world.path)
