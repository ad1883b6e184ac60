# SPDX-License-Identifier: Apache-2.0
"""Addresses that are added to a running server, and removed: cases that the models lack."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nitrohb import (
    AddressError,
    Event,
    Heartbeat,
    HeartbeatServer,
    Listener,
    ListenError,
    NoHeartbeatError,
    Rejected,
    RejectReason,
    UsageError,
    open_listeners,
    serve_heartbeat,
)
from tests.support import B7, Client, PeersWithCids, beat, names, settled


class Server(trio.TaskStatus[HeartbeatServer]):
    """A running server: its handle, its events, and what it returned."""

    def __init__(self) -> None:
        self.handle: HeartbeatServer
        self.events: list[Event] = []
        self.returned: list[Heartbeat] | None = None
        self.react: Callable[[Event], object] = lambda _: None

    async def run(self, *listen: Any, task_status: trio.TaskStatus[None], **options: Any) -> None:
        self.status = task_status
        self.returned = await serve_heartbeat(
            *listen, on_event=self._on_event, task_status=self, **options
        )

    def started(self, value: HeartbeatServer) -> None:
        self.handle = value
        self.status.started()

    def _on_event(self, event: Event) -> None:
        self.events.append(event)
        self.react(event)

    def has_returned(self) -> bool:
        return self.returned is not None

    def told(self) -> list[str]:
        """The events since the last call."""
        told = names(self.events)
        self.events.clear()
        return told


@asynccontextmanager
async def running(*listen: Any, **options: Any) -> AsyncGenerator[Server]:
    server = Server()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.run, *listen, **{"keep": True} | options))
        server.told()
        yield server
        nursery.cancel_scope.cancel()


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return tmp_path / "a"


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return tmp_path / "b"


async def test_a_server_can_begin_without_an_address(a: Path) -> None:
    async with running("none") as server:
        assert server.handle.addresses == ()
        with pytest.raises(NoHeartbeatError, match="has no address"):
            await server.handle.wait_heartbeat()
        with pytest.raises(NoHeartbeatError, match="CID 16"):
            await server.handle.wait_heartbeat(cid=16)
        with pytest.raises(UsageError, match=r"does not listen on vsock::9000\n"):
            server.handle.unlisten("vsock::9000")
        server.handle.listen(f"unix:{a}")
        await beat(Client(a))
        assert server.told() == ["listening", "connected", "heartbeat"]
    with pytest.raises(AddressError, match="'none'"):
        await serve_heartbeat("none", f"unix:{a}")
    with pytest.raises(UsageError, match="keep=True"):
        await serve_heartbeat("none")


async def test_a_removal_ends_silent_connections_and_waits(a: Path, b: Path) -> None:
    async with running(f"unix:{a}", f"unix:{b}") as server:
        with Client(a) as silent, Client(b) as other:
            await settled()
            server.told()
            async with trio.open_nursery() as nursery:

                async def wait() -> None:
                    with pytest.raises(NoHeartbeatError, match="was removed") as caught:
                        await server.handle.wait_heartbeat(address=f"unix:{a}")
                    assert caught.value.unlistened

                nursery.start_soon(wait)
                await settled()
                server.handle.unlisten(f"unix:{a}")
                rejected = server.events[0]
            assert isinstance(rejected, Rejected)
            assert rejected.reason is RejectReason.UNLISTENED
            assert server.told() == ["rejected", "unlistened"]
            assert silent.look() == (b"", True)
            await beat(other)
        assert [str(it.address) for it in server.handle.last_heartbeats()] == [f"unix:{b}"]
        server.handle.unlisten(f"unix:{b}")
        assert server.handle.last_heartbeats() == []


async def test_a_message_names_a_few_of_many_addresses(tmp_path: Path) -> None:
    async with running(*(f"unix:{tmp_path}/{number}" for number in range(9))) as server:
        with pytest.raises(UsageError, match=r"/7, \.\.\.\n"):
            server.handle.rearm("vsock::9000")


async def test_a_thousand_addresses_come_and_go_and_leave_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running("none") as server:

        def held() -> tuple[int, int]:
            tasks = trio.lowlevel.current_statistics().tasks_living
            return tasks, len(os.listdir("/proc/self/fd"))

        before = held()
        paths = [tmp_path / str(number) for number in range(300)]
        for _ in range(4):
            for path in paths:
                server.handle.listen(f"unix:{path}")
            await settled()
            with Client(paths[7]) as client:
                await settled()
                for path in paths:
                    server.handle.unlisten(f"unix:{path}")
                assert client.look() == (b"", True)
            await trio.sleep(1)  # the server checks the files twice a second
            assert held() == before
            assert os.listdir(tmp_path) == []


async def test_no_task_creates_the_file_of_a_removed_address_again(
    a: Path, autojump_clock: MockClock
) -> None:
    async with running("none") as server:
        for passes in range(6):
            server.handle.listen(f"unix:{a}")
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            server.handle.unlisten(f"unix:{a}")
            await trio.sleep(1)
            assert not a.exists()
            assert server.told() == ["listening", "unlistened"]


async def test_a_file_of_another_process_is_left_alone(a: Path, autojump_clock: MockClock) -> None:
    async with running(f"unix:{a}") as server:
        a.unlink()
        a.write_text("theirs")
        await trio.sleep(1)
        assert server.told() == ["lost"]
        server.handle.unlisten(f"unix:{a}")
        await trio.sleep(1)
        assert (server.told(), a.read_text()) == (["unlistened"], "theirs")


async def test_an_address_that_fails_changes_nothing(tmp_path: Path, a: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    later = tmp_path / "later"
    async with running(f"unix:{a}", socket_mode=0o620) as server:
        for wrong, error, message in [
            (f"unix:{a}", UsageError, "already"),
            (f"unix:{tmp_path}/link/a", UsageError, "cannot listen on both"),
            (f"unix:{later}/x", ListenError, "does not exist"),
            ("vsock::4294967295", UsageError, "the port"),
            ("unix:/run/vms/*", AddressError, "not a pattern"),
            ("none", AddressError, "'none'"),
            (9000, UsageError, "9000"),
        ]:
            with pytest.raises(error, match=message):
                server.handle.listen(wrong)  # type: ignore[arg-type]
        for nothing in (None, 9000, b"unix:x", [f"unix:{a}"]):
            with pytest.raises(UsageError, match="address"):
                server.handle.unlisten(nothing)  # type: ignore[arg-type]
        assert [str(it) for it in server.handle.addresses] == [f"unix:{a}"]
        assert server.told() == []
        await beat(Client(a))
        later.mkdir()
        assert str(server.handle.listen(f"unix:{later}/x")) == f"unix:{later}/x"
        assert stat.S_IMODE((later / "x").stat().st_mode) == 0o620


@contextmanager
def locked(directory: Path) -> Generator[None]:
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


async def test_no_enclave_waits_for_a_locked_directory(tmp_path: Path, a: Path, b: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(b))
    async with running(f"unix:{a}") as server:
        with locked(tmp_path), pytest.raises(ListenError) as caught:
            server.handle.listen(f"unix:{b}")
        assert caught.value.errno == errno.EWOULDBLOCK
        server.handle.listen(f"unix:{b}")


async def test_a_socket_belongs_to_the_server_even_if_it_is_refused(a: Path, b: Path) -> None:
    async with running(f"unix:{a}") as server:
        with socket.socket(socket.AF_UNIX) as unbound:
            with pytest.raises(ListenError):
                server.handle.listen(unbound)
            assert unbound.fileno() == -1
        (listener,) = open_listeners([f"unix:{b}"])
        server.handle.listen(listener)
        with pytest.raises(UsageError, match="already"):
            server.handle.listen(listener)
        await beat(Client(b))
        with closing(socket.socket(socket.AF_UNIX)) as other:
            with pytest.raises(UsageError, match="already"):
                server.handle.listen(Listener(listener.address, other))
            assert other.fileno() == -1
        same = socket.socket(fileno=listener.sock.fileno())
        with pytest.raises(UsageError, match="already"):
            server.handle.listen(Listener(listener.address, same))
        same.detach()
        await beat(Client(b))
    with closing(socket.socket(socket.AF_UNIX)) as late:
        with pytest.raises(UsageError, match="ended"):
            server.handle.listen(late)
        assert late.fileno() == -1


async def test_allowed_cids_are_those_of_all_addresses(tmp_path: Path, a: Path) -> None:
    async with running(PeersWithCids(tmp_path / "3"), allow_cids={16}) as server:
        with pytest.raises(UsageError, match="no CID"):
            server.handle.listen(f"unix:{a}")
        (listener,) = open_listeners([f"unix:{a}"])
        with pytest.raises(UsageError, match="no CID"):
            server.handle.listen(listener)
        assert not a.exists()
        added = PeersWithCids(tmp_path / "4", cid=4)
        server.handle.listen(added)
        with added.connect(17) as other:
            await settled()
            assert other.look() == (b"", True)
        await beat(added.connect(16))
        assert server.told() == ["listening", "connected", "rejected", "connected", "heartbeat"]


async def test_a_one_shot_server_ends_with_the_last_of_its_addresses(a: Path, b: Path) -> None:
    async with running(f"unix:{a}", keep=False) as server:
        server.handle.listen(f"unix:{b}")
        await beat(Client(a))
        assert not server.has_returned()
        server.handle.listen(f"unix:{a}")
        assert [str(each) for each in server.handle.addresses] == [f"unix:{b}", f"unix:{a}"]
        server.handle.unlisten(f"unix:{b}")
        await beat(Client(a))
        assert server.returned is not None
        assert [str(each.address) for each in server.returned] == [f"unix:{a}"]
        with pytest.raises(UsageError, match="the server has ended"):
            server.handle.listen(f"unix:{b}")
        server.handle.unlisten(f"unix:{a}")
        assert server.told()[-1] == "unlistened"


# on_event may call the server, in the middle of an operation.


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("silent", [0, 1, 6])
@pytest.mark.parametrize("moment", ["connected", "heartbeat"])
async def test_an_event_can_remove_its_address(
    once: bool, silent: int, moment: str, a: Path, b: Path, autojump_clock: MockClock
) -> None:
    """While connections are pending, polled or in the backlog: none hangs."""

    def react(event: Event) -> None:
        if event.name == moment and len(server.handle.addresses) == 2:
            server.handle.unlisten(f"unix:{a}")

    async with running(f"unix:{a}", f"unix:{b}", keep=not once) as server:
        clients = [Client(a) for _ in range(silent)]
        if moment == "heartbeat":
            await settled()
        server.react = react
        clients += [Client(a), Client(a)]
        clients[-2].send(B7)
        await trio.sleep(1)
        is_answered = moment == "heartbeat"
        seen = [client.look() for client in clients]
        assert seen == [
            (B7 if is_answered and it == silent else b"", True) for it in range(len(seen))
        ]
        for client in clients:
            client.close()
        assert [str(address) for address in server.handle.addresses] == [f"unix:{b}"]
        assert server.handle.last_heartbeats() == []
        told = server.told()
        outcomes = told.count("rejected") + told.count("heartbeat")
        assert (told.count("connected"), told.count("unlistened")) == (outcomes, 1)
        await beat(Client(b))


@pytest.mark.parametrize("once", [True, False])
async def test_the_first_of_several_bytes_closes_the_address(once: bool, a: Path) -> None:
    """Two bytes arrive at once. On a busy machine, the server can read the second first."""
    clients: list[Client] = []

    def react(event: Event) -> None:
        if event.name == "heartbeat":
            server.handle.unlisten(f"unix:{a}")
        elif names(server.events) == ["connected"] * 3:
            for client in clients[:2]:
                client.send(B7)

    async with running(f"unix:{a}", keep=not once) as server:
        server.react = react
        clients += [Client(a), Client(a), Client(a)]
        await settled()
        *answered, silent = [client.look()[0] for client in clients]
        assert (sorted(answered), silent) == ([b"", B7], b"")
        assert all(client.ended for client in clients)
        for client in clients:
            client.close()
        assert (server.returned is not None) == once


async def test_each_connection_has_one_end_even_if_an_event_ends_them_again(a: Path) -> None:
    def react(event: Event) -> None:
        if event.name == "rejected":
            server.handle.rearm()

    async with running(f"unix:{a}") as server:
        server.react = react
        with Client(a), Client(a), Client(a):
            await settled()
            server.handle.rearm()
        assert server.told() == ["connected"] * 3 + ["rejected"] * 3


@pytest.mark.parametrize("moment", ["heartbeat", "done"])
async def test_an_event_can_listen_for_the_next_boot(moment: str, a: Path) -> None:
    def react(event: Event) -> None:
        if event.name == moment and server.told():
            server.handle.listen(f"unix:{a}")

    async with running(f"unix:{a}", keep=False) as server:
        server.react = react
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                await server.handle.wait_heartbeat(address=f"unix:{a}")

            nursery.start_soon(wait)
            await settled()
            await beat(Client(a))
            await beat(Client(a))
        assert server.returned is None


async def test_on_event_can_remove_an_address_that_was_just_added(a: Path) -> None:
    def react(event: Event) -> None:
        if event.name == "listening":
            server.handle.unlisten(event.address)

    async with running("none") as server:
        server.react = react
        server.handle.listen(f"unix:{a}")
        assert (server.handle.addresses, a.exists()) == ((), False)


async def test_an_error_of_on_event_adds_nothing(a: Path) -> None:
    def fail(_: Event) -> None:
        raise ZeroDivisionError

    async with running("none") as server:
        server.react = fail
        with pytest.raises(ZeroDivisionError):
            server.handle.listen(f"unix:{a}")
        assert (server.handle.addresses, a.exists()) == ((), False)
        server.react = lambda _: None
        server.handle.listen(f"unix:{a}")
        await beat(Client(a))
