# SPDX-License-Identifier: Apache-2.0
"""serve_heartbeat() on real sockets, in virtual time."""

import asyncio
import contextlib
import errno
import math
import os
import socket
import struct
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nitrohb import (
    Console,
    Disconnected,
    Event,
    Evicted,
    Heartbeat,
    HeartbeatServer,
    HybridAddress,
    InheritedSocket,
    Listener,
    ListenError,
    Rejected,
    RejectReason,
    UnixAddress,
    UnixPeer,
    UsageError,
    VsockAddress,
    open_listeners,
    serve_heartbeat,
)
from nitrohb.sockets import syscalls
from tests.support import B7, Client, PeersWithCids, beat, names, serving, settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


def rejections(events: list[Event]) -> list[tuple[RejectReason, int | None]]:
    return [(event.reason, event.byte) for event in events if isinstance(event, Rejected)]


def heartbeats(events: list[Event]) -> list[Heartbeat]:
    return [event for event in events if isinstance(event, Heartbeat)]


# --- addresses ----------------------------------------------------------------------------------


async def test_one_heartbeat_from_listening_to_done(path: Path, autojump_clock: MockClock) -> None:
    events: list[Event] = []
    returned: list[Heartbeat] = []

    async def serve(task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        returned.extend(
            await serve_heartbeat(f"unix:{path}", on_event=events.append, task_status=task_status)
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        await trio.sleep(3)
        with Client(path) as client:
            await trio.sleep(0.25)
            await beat(client)
    (heartbeat,) = returned
    assert heartbeat.address == UnixAddress(str(path))
    assert heartbeat.peer == UnixPeer(os.getpid(), os.geteuid(), os.getegid())
    assert heartbeat.time.tzinfo is UTC
    assert (heartbeat.listening_seconds, heartbeat.echo_seconds) == (3.25, 0.25)
    assert heartbeat.echoed
    assert names(events) == ["listening", "connected", "heartbeat", "done"]
    assert events[2] is heartbeat
    assert not path.exists()


async def test_every_address_listens_at_once_and_closes_when_it_is_answered(tmp_path: Path) -> None:
    addresses = (UnixAddress(str(tmp_path / "b")), HybridAddress(str(tmp_path / "a"), 9000))
    events: list[Event] = []
    returned: list[Heartbeat] = []

    async def serve(task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        returned.extend(
            await serve_heartbeat(*addresses, on_event=events.append, task_status=task_status)
        )

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        assert server.addresses == addresses
        assert tuple(event.address for event in events) == addresses
        with Client(addresses[0].path), Client(addresses[1].path) as client:
            await beat(client)
        done = [event.address for event in events if event.name == "done"]
        assert done == [addresses[1]]
        assert os.listdir(tmp_path) == ["b"]
        await beat(Client(addresses[0].path))
    assert tuple(heartbeat.address for heartbeat in returned) == addresses


async def test_the_default_address_is_port_9000_of_every_cid(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def open_elsewhere(targets: list[Any], **_: object) -> list[Listener]:
        asked.extend(targets)
        return open_listeners([f"unix:{path}"])

    monkeypatch.setattr("nitrohb.handle.open_listeners", open_elsewhere)
    async with serving():
        assert [str(address) for address in asked] == ["vsock::9000"]


async def test_an_address_that_fails_closes_the_others(tmp_path: Path) -> None:
    with pytest.raises(ListenError) as caught:
        await serve_heartbeat(f"unix:{tmp_path}/a", f"unix:{tmp_path}/none/b")
    assert (caught.value.address, caught.value.errno) == (f"unix:{tmp_path}/none/b", errno.ENOENT)
    assert not (tmp_path / "a").exists()


async def test_a_passed_socket_is_closed_and_its_file_left_alone(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    async with serving(sock) as events:
        assert events[0].address == InheritedSocket(sock.fileno())
        await beat(Client(path))
    assert sock.fileno() == -1
    assert path.exists()


async def test_a_passed_listener_has_listened_for_a_while(
    path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (listener,) = open_listeners([f"unix:{path}"])
    monkeypatch.setattr(Listener, "age", 2.5)
    async with serving(listener) as events:
        assert events[0].time == listener.time
        await beat(Client(path))
    assert heartbeats(events)[0].listening_seconds == 2.5


# --- peers --------------------------------------------------------------------------------------


async def test_a_wrong_byte_is_refused_and_the_next_one_answered(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        for junk in (b"\x00", b"\xb6", b"\x00\xb7", b"GET / HTTP/1.1\r\n"):
            with Client(path) as hostile:
                hostile.send(junk)
                await settled()
                assert hostile.look() == (b"", True), junk
        await beat(Client(path))
    assert rejections(events) == [(RejectReason.WRONG_BYTE, byte) for byte in (0, 0xB6, 0, 0x47)]


async def test_any_byte_is_echoed_when_asked(path: Path) -> None:
    async with serving(f"unix:{path}", any_byte=True) as events:
        await beat(Client(path), b"\x00and more")
    assert names(events) == ["listening", "connected", "heartbeat", "done"]
    assert heartbeats(events)[0].byte == 0


async def test_a_connection_without_a_byte_is_not_a_heartbeat(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        for leave in (Client.close, Client.half_close):
            with Client(path) as client:
                leave(client)
                await settled()
        await beat(Client(path))
    assert names(events)[1:5] == ["connected", "disconnected"] * 2
    assert names(events)[5:] == ["connected", "heartbeat", "done"]
    assert isinstance(events[2], Disconnected)


async def test_bytes_after_the_first_are_ignored(path: Path) -> None:
    async with serving(f"unix:{path}", keep=True):
        await beat(Client(path), B7 + bytes(1_000_000))
        with Client(path) as client:
            client.send(B7)
            client.half_close()
            await beat(client)
        with Client(path) as client:
            client.send(B7 + b"\r\n")
            await settled()
            assert [client.sock.recv(1), client.sock.recv(1)] == [B7, b""], "no reset"


async def test_a_heartbeat_has_the_time_of_its_byte_not_of_its_connection(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            await settled()
            when = datetime(2026, 3, 4, tzinfo=UTC)
            monkeypatch.setattr("nitrohb.connection.time", SimpleNamespace(time=when.timestamp))
            await beat(client)
    assert heartbeats(events)[0].time == when
    assert events[1].time != when


async def test_a_heartbeat_whose_echo_fails_still_counts(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            client.send(B7)
        await settled()
    assert names(events) == ["listening", "connected", "heartbeat", "done"]
    assert not heartbeats(events)[0].echoed


async def test_a_silent_client_is_closed_at_its_deadline_and_delays_nobody(
    path: Path, autojump_clock: MockClock
) -> None:
    async with serving(f"unix:{path}", keep=True, handshake_timeout=2.5) as events:
        with Client(path) as silent, Client(path) as enclave:
            await trio.sleep(2.25)
            await beat(enclave)
            assert silent.look() == (b"", False)
            await trio.sleep(0.25)
            await settled()
            assert silent.look() == (b"", True)
    assert rejections(events) == [(RejectReason.TIMEOUT, None)]


async def test_the_deadline_may_be_infinite(path: Path, autojump_clock: MockClock) -> None:
    async with serving(f"unix:{path}", handshake_timeout=math.inf):
        with Client(path) as client:
            await trio.sleep(1e3)
            await beat(client)


async def test_when_one_is_answered_the_others_are_closed(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as silent, Client(path) as enclave:
            await settled()
            await beat(enclave)
            assert silent.look() == (b"", True)
    assert names(events)[3:] == ["heartbeat", "rejected", "done"]
    assert rejections(events) == [(RejectReason.ALREADY_ANSWERED, None)]


async def test_of_two_bytes_that_come_together_one_is_answered(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as one, Client(path) as two:
            await settled()
            one.send(B7)
            two.send(B7)
            await settled()
            assert sorted([one.look(), two.look()]) == [(b"", True), (B7, True)]
    assert sorted(names(events)[3:]) == ["done", "heartbeat", "rejected"]


async def test_with_keep_it_goes_on_until_it_is_cancelled(path: Path) -> None:
    with contextlib.ExitStack() as clients:
        async with serving(f"unix:{path}", keep=True) as events:
            for _ in range(3):
                await beat(Client(path))
            silent = clients.enter_context(Client(path))
            await settled()
        assert silent.look() == (b"", True)
    # The silent one does not time out.
    assert names(events) == ["listening", *["connected", "heartbeat"] * 3, "connected"]
    assert not path.exists()


@pytest.mark.parametrize("can_be_asked", [True, False])
async def test_it_answers_without_a_callback(path: Path, can_be_asked: bool) -> None:
    """Without a callback, and with nobody to call wait_heartbeat(), it creates no events."""
    async with trio.open_nursery() as nursery:
        serve = partial(serve_heartbeat, f"unix:{path}", keep=True)
        if can_be_asked:
            await nursery.start(serve)
        else:
            nursery.start_soon(serve)
        await settled()
        await beat(Client(path))
        with Client(path) as client:
            await settled()
            await beat(client)
        nursery.cancel_scope.cancel()


async def test_many_connections_are_answered_in_batches(
    tmp_path: Path,
) -> None:
    busy, quiet = (open_listeners([f"unix:{tmp_path}/{name}"])[0] for name in ("busy", "quiet"))
    with contextlib.ExitStack() as clients:
        crowd = [clients.enter_context(Client(tmp_path / "busy")) for _ in range(200)]
        single = clients.enter_context(Client(tmp_path / "quiet"))
        for client in [*crowd, single]:
            client.send(B7)
        async with serving(busy, quiet, keep=True) as events:
            await settled()
            assert all(client.look() == (B7, True) for client in [*crowd, single])
    order = [str(event.address) for event in heartbeats(events)]
    assert len(order) == 201
    assert order.index(f"unix:{tmp_path}/quiet") <= 64


# --- allow-lists, and wrong arguments -----------------------------------------------------------


async def test_a_cid_that_is_not_allowed_is_closed_before_anything_is_read(path: Path) -> None:
    with PeersWithCids(path) as listener:
        async with serving(listener, allow_cids={16, 18}) as events:
            with listener.connect(cid=17) as stranger, listener.connect(cid=16) as enclave:
                stranger.send(B7)
                await settled()
                assert stranger.look() == (b"", True)
                await beat(enclave)
    assert rejections(events) == [(RejectReason.CID, None)]
    assert [event.cid for event in events if isinstance(event, Rejected)] == [17]
    assert [(event.peer, event.cid) for event in heartbeats(events)] == [
        (VsockAddress(16, 1024), 16)
    ]


async def test_an_allow_list_on_a_unix_socket_is_a_usage_error(path: Path) -> None:
    with pytest.raises(UsageError, match=rf"unix:{path}: .*no CID"):
        await serve_heartbeat(f"unix:{path}", allow_cids={16})
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with pytest.raises(UsageError, match=rf"fd:{sock.fileno()}: .*no CID"):
            await serve_heartbeat(sock, allow_cids={16})
        assert sock.fileno() == -1


async def test_a_user_that_is_not_allowed_is_closed_before_anything_is_read(path: Path) -> None:
    async with serving(f"unix:{path}", allow_uids={os.geteuid() + 1}, keep=True) as events:
        with Client(path) as stranger:
            stranger.send(B7)
            await settled()
            assert stranger.look() == (b"", True)
    (rejected,) = [event for event in events if isinstance(event, Rejected)]
    assert (rejected.reason, rejected.byte) == (RejectReason.UID, None)
    assert (rejected.pid, rejected.uid, rejected.gid) == (
        os.getpid(),
        os.geteuid(),
        os.getegid(),
    )


@pytest.mark.parametrize(("more", "answer"), [(1, b""), (0, B7)])
async def test_the_allow_list_works_without_a_callback(
    more: int, answer: bytes, path: Path
) -> None:
    (listener,) = open_listeners([f"unix:{path}"])
    serve = partial(serve_heartbeat, keep=True, allow_uids=[os.geteuid() + more])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener)
        with Client(path) as client:
            client.send(B7)
            await settled()
            assert client.look() == (answer, True)
        nursery.cancel_scope.cancel()


async def test_with_both_allow_lists_each_kind_of_address_has_its_own(
    path: Path, tmp_path: Path
) -> None:
    vsock, unix = PeersWithCids(tmp_path / "3"), f"unix:{path}"
    lists = {"allow_cids": {16}, "allow_uids": {os.geteuid()}}
    async with serving(vsock, unix, keep=True, **lists) as events:
        await beat(Client(path))
        await beat(vsock.connect(cid=16))
        with vsock.connect(cid=os.geteuid()) as stranger:
            await settled()
            assert stranger.look() == (b"", True)
    assert rejections(events) == [(RejectReason.CID, None)]
    assert len(heartbeats(events)) == 2


async def test_a_process_that_the_pid_namespace_hides_has_no_pid(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports process ID 0. All such processes of one address are one peer."""

    def peer_credentials(_: int) -> bytes:
        return struct.pack("3I", 0, 7, 8)

    monkeypatch.setattr(syscalls, "peer_credentials", peer_credentials)
    other = tmp_path / "other"
    async with serving(f"unix:{path}", f"unix:{other}", max_pending=3, keep=True) as events:
        with Client(other) as oldest, Client(path), Client(path), Client(path):
            await settled()
            await beat(oldest)
    (evicted,) = [event for event in events if isinstance(event, Evicted)]
    assert (str(evicted.address), evicted.peer) == (f"unix:{path}", UnixPeer(None, 7, 8))


async def test_users_alone_cannot_be_allowed_where_peers_have_none(path: Path) -> None:
    vsock = PeersWithCids(path)
    with pytest.raises(UsageError, match=r"vsock:3:9000: .*no uid"):
        await serve_heartbeat(vsock, allow_uids={16})
    assert vsock.sock.fileno() == -1
    with pytest.raises(UsageError, match=r"vsock::9000: .*no uid"):
        await serve_heartbeat(allow_uids={16})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"allow_uids": []}, r"allow_uids is empty"),
        ({"allow_uids": {"root"}}, r"allow_uids: 'root' is not valid\n.*0 to 4294967294"),
        ({"allow_cids": ()}, r"allow_cids is empty"),
        ({"allow_cids": {"16"}}, r"allow_cids: '16' is not valid\n.*0 to 4294967294"),
        ({"allow_cids": {-1}}, r"allow_cids: -1 is not valid\nPass "),
        ({"allow_cids": {2**32 - 1}}, r"allow_cids: 4294967295 is not valid\nPass "),
        ({"handshake_timeout": 0}, r"handshake_timeout cannot be 0\n.*more than 0 s"),
        ({"handshake_timeout": -1.5}, r"handshake_timeout cannot be -1.5\nPass "),
        ({"handshake_timeout": math.nan}, r"handshake_timeout cannot be nan\nPass "),
        ({"max_pending": 0}, r"max_pending cannot be 0\n.*at least 1"),
        ({"max_pending": -1}, r"max_pending cannot be -1\nPass "),
        ({"max_pending": 1.5}, r"max_pending cannot be 1\.5\n.*integer"),
        ({"max_pending": "16"}, r"max_pending cannot be '16'\nPass "),
        ({"handshake_timeout": "5"}, r"handshake_timeout cannot be '5'\n.*number"),
        ({"allow_cids": 16}, r"allow_cids cannot be 16\n.*set"),
        ({"allow_uids": 0}, r"allow_uids cannot be 0\n.*set"),
        ({"socket_mode": 660}, r"socket_mode cannot be 660\n.*0o777"),
        ({"socket_mode": "660"}, r"socket_mode cannot be '660'\n.*0o777"),
        ({"socket_mode": -1}, r"socket_mode cannot be -1\nPass "),
        ({"socket_group": "root"}, r"socket_group cannot be 'root'\nPass "),
        ({"socket_group": -1}, r"socket_group cannot be -1\nPass "),
        ({"socket_group": 2**32 - 1}, r"socket_group cannot be 4294967295\nPass "),
    ],
)
async def test_wrong_arguments(path: Path, options: dict[str, Any], complaint: str) -> None:
    listener = open_listeners([f"unix:{path}"])[0]
    with pytest.raises(UsageError, match=complaint):
        await serve_heartbeat(listener, **options)
    assert listener.sock.fileno() == -1


@pytest.mark.parametrize("nonsense", [9000, None, b"vsock::9000", ("vsock", 9000)])
async def test_wrong_types_of_listen_arguments(nonsense: Any) -> None:
    with pytest.raises(UsageError) as caught:
        await serve_heartbeat(nonsense)
    assert repr(nonsense) in str(caught.value)


# --- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("connected", ZeroDivisionError()),
        ("connected", OSError(errno.EMFILE, "not for accept(2) to wait out")),
        ("done", ZeroDivisionError()),
    ],
)
async def test_a_callback_that_fails_ends_the_server_and_leaves_nothing_open(
    path: Path, where: str, error: Exception
) -> None:
    def fail(event: Event) -> None:
        if event.name == where:
            raise error

    with pytest.RaisesGroup(type(error), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, f"unix:{path}", on_event=fail))
            with Client(path) as client:
                client.send(B7)
                await settled()
    assert not path.exists()


class Scripted(Listener):
    """A real listener whose accept() first fails as scripted."""

    def __init__(self, path: Path, *failures: int) -> None:
        (real,) = open_listeners([f"unix:{path}"])
        super().__init__(real.address, real.sock, path=str(path))
        self.failures = list(failures)
        self.times: list[float] = []

    def accept(self) -> tuple[int, VsockAddress | None]:
        self.times.append(trio.current_time())
        if self.failures:
            number = self.failures.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.parametrize(
    ("expected", "failures"),
    [
        ([0.0] * 5, [errno.EAGAIN, errno.ECONNABORTED, errno.EPERM, errno.EPROTO]),
        # At first, the server uses the descriptor in reserve.
        ([0.0, 0.0, 0.1, 0.2, 0.3], [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]),
    ],
    ids=["of one connection", "exhaustion"],
)
async def test_temporary_errors_of_accept(
    path: Path, expected: list[float], failures: list[int], autojump_clock: MockClock
) -> None:
    listener = Scripted(path, *failures)
    async with serving(listener):
        start = trio.current_time()
        with Client(path) as client:
            client.send(B7)
            await trio.sleep(1)
            assert client.look() == (B7, True)
        times = [time - start for time in listener.times]
        assert times == pytest.approx(expected)


async def test_a_listener_that_breaks_ends_the_server(path: Path) -> None:
    def is_about_the_address(error: ListenError) -> bool:
        return error.address == f"unix:{path}" and error.errno == errno.EBADF

    expected = pytest.RaisesExc(ListenError, check=is_about_the_address)
    with pytest.RaisesGroup(expected):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_heartbeat, Scripted(path, errno.EBADF))
            Client(path).close()
    assert not path.exists()


@pytest.mark.parametrize("keep", [False, True])
async def test_awaited_directly_it_raises_the_error_without_a_group(path: Path, keep: bool) -> None:
    """It is not in a group, and has no group as its context, so the traceback is short."""
    listener = Scripted(path, errno.EBADF)
    with Client(path), pytest.raises(ListenError) as caught:
        await serve_heartbeat(listener, keep=keep)
    assert isinstance(caught.value.__cause__, OSError)
    assert isinstance(caught.value.__context__, OSError)


async def test_errors_that_come_together_are_in_a_group(tmp_path: Path) -> None:
    broken = [Scripted(tmp_path / name, errno.EBADF) for name in "ab"]
    both = pytest.RaisesGroup(ListenError, ListenError, flatten_subgroups=True)
    with Client(tmp_path / "a"), Client(tmp_path / "b"), both:
        await serve_heartbeat(*broken)


async def test_an_error_during_a_cancellation_is_raised_without_a_group(path: Path) -> None:
    def fail(event: Event) -> None:
        if event.name == "connected":
            scope.cancel()
            raise ZeroDivisionError

    listeners = open_listeners([f"unix:{path}", f"unix:{path}2"])
    with trio.CancelScope() as scope, Client(path), pytest.raises(ZeroDivisionError):
        await serve_heartbeat(*listeners, on_event=fail)


def test_under_asyncio_the_error_names_the_right_function(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    with pytest.raises(UsageError, match=r"needs trio.*\n.*serve_in_thread\(\)"):
        asyncio.run(serve_heartbeat(sock))
    assert sock.fileno() == -1


class AsyncCallback:
    async def __call__(self, event: Event) -> None:
        pytest.fail("nobody awaits it")


@pytest.mark.parametrize(
    "callback", [AsyncCallback().__call__, AsyncCallback(), partial(AsyncCallback().__call__), "x"]
)
async def test_an_async_callback_is_refused_with_what_to_do(path: Path, callback: Any) -> None:
    with pytest.raises(
        UsageError, match=r"on_event .*not a plain function[^$]*\n.*open_memory_channel"
    ):
        await serve_heartbeat(f"unix:{path}", on_event=callback)
    assert not path.exists()
    with pytest.raises(UsageError, match=r"on_data .*not a plain function"):
        Console(f"unix:{path}", on_data=callback)


async def test_a_socket_that_another_holder_shuts_down_ends_the_server(path: Path) -> None:
    expected = pytest.RaisesExc(ListenError, check=lambda error: error.errno == errno.ESHUTDOWN)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with pytest.RaisesGroup(expected, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_heartbeat, sock.dup())
                sock.shutdown(socket.SHUT_RDWR)


class FailingIO:
    """Replaces ``os`` where connections are read and written. Fails as scripted."""

    def __init__(self, *, read: int = 0, write: int = 0) -> None:
        self._read_errno, self._write_errno = read, write
        self.writes = 0

    def read(self, fd: int, size: int) -> bytes:
        if self._read_errno:
            raise OSError(self._read_errno, os.strerror(self._read_errno))
        return os.read(fd, size)

    def write(self, fd: int, data: bytes) -> int:
        self.writes += 1
        raise OSError(self._write_errno, os.strerror(self._write_errno))


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNRESET])
async def test_a_broken_connection_is_one_without_a_byte(
    path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "os", FailingIO(read=number))
    async with serving(f"unix:{path}") as events:
        with Client(path):
            await settled()
        assert names(events) == ["listening", "connected", "disconnected"]


async def test_an_echo_into_a_full_buffer_waits_until_the_deadline(
    path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = FailingIO(write=errno.EAGAIN)
    monkeypatch.setattr(syscalls, "os", scripted)
    # The socket itself is writable, so each wait ends at once, and the loop is never idle. So
    # each real step of the loop moves the clock.
    autojump_clock.rate = 1000
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            client.send(B7)
            while names(events)[-1] != "done":
                await trio.sleep(0.5)
            assert client.look() == (b"", True)
    (heartbeat,) = heartbeats(events)
    assert not heartbeat.echoed
    assert heartbeat.echo_seconds >= 5
    assert scripted.writes > 1
