# SPDX-License-Identifier: Apache-2.0
"""serve_heartbeat() on real sockets, in virtual time."""

import contextlib
import errno
import math
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nitrohb import (
    Disconnected,
    Done,
    Event,
    Heartbeat,
    HeartbeatServer,
    HybridAddress,
    InheritedSocket,
    Listener,
    ListenError,
    Rejected,
    RejectReason,
    UnixAddress,
    UsageError,
    VsockAddress,
    open_listeners,
    serve_heartbeat,
    wire,
)
from tests.support import B7, Client, PeersWithCids, names, serving, settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


async def test_one_heartbeat_from_listening_to_done(path: Path, autojump_clock: MockClock) -> None:
    events: list[Event] = []
    beats: list[Heartbeat] = []

    async def serve(task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        beats.extend(
            await serve_heartbeat(f"unix:{path}", on_event=events.append, task_status=task_status)
        )

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        assert server.addresses == (UnixAddress(str(path)),)
        await trio.sleep(3)
        with Client(path) as client:
            await trio.sleep(0.25)
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)
    (beat,) = beats
    assert beat.address == UnixAddress(str(path))
    assert (beat.peer, beat.cid) == (None, None)
    assert beat.received_at.tzinfo is UTC
    assert (beat.listening_seconds, beat.echo_seconds, beat.echoed) == (3.25, 0.25, True)
    assert names(events) == ["listening", "connected", "heartbeat", "done"]
    assert events[2] is beat
    assert not path.exists()


async def test_started_means_that_every_address_accepts_connections(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    async with serving(*(f"unix:{path}" for path in paths)) as events:
        assert [str(event.address) for event in events] == [f"unix:{path}" for path in paths]
        for path in paths:
            Client(path).close()


async def test_heartbeats_are_returned_in_the_order_of_the_addresses(tmp_path: Path) -> None:
    addresses = (UnixAddress(str(tmp_path / "a")), HybridAddress(str(tmp_path / "vm"), 9000))
    async with trio.open_nursery() as nursery:
        beats: list[Heartbeat] = []

        async def serve(task_status: trio.TaskStatus[HeartbeatServer]) -> None:
            beats.extend(await serve_heartbeat(*addresses, task_status=task_status))

        await nursery.start(serve)
        for address in reversed(addresses):
            with Client(address.path) as client:
                client.send(B7)
                await settled()
                assert client.look() == (B7, True)
    assert tuple(beat.address for beat in beats) == addresses


async def test_the_default_address_is_port_9000_of_every_cid(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def open_elsewhere(targets: list[Any]) -> list[Listener]:
        asked.extend(targets)
        return open_listeners([f"unix:{path}"])

    monkeypatch.setattr("nitrohb.server.open_listeners", open_elsewhere)
    async with serving():
        assert [str(address) for address in asked] == ["vsock::9000"]


async def test_an_address_that_fails_closes_the_others(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="does not exist"):
        await serve_heartbeat(f"unix:{tmp_path}/a", f"unix:{tmp_path}/none/b")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("junk", [b"\x00", b"\xb6", b"\x00\xb7", b"GET / HTTP/1.1\r\n"])
async def test_a_wrong_byte_is_refused_and_the_next_one_answered(path: Path, junk: bytes) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as hostile, Client(path) as enclave:
            hostile.send(junk)
            await settled()
            assert hostile.look() == (b"", True)
            enclave.send(B7)
            await settled()
            assert enclave.look() == (B7, True)
    (refusal,) = [event for event in events if isinstance(event, Rejected)]
    assert (refusal.reason, refusal.byte) == (RejectReason.WRONG_BYTE, junk[0])


async def test_any_byte_is_echoed_when_asked(path: Path) -> None:
    async with serving(f"unix:{path}", any_byte=True) as events:
        with Client(path) as client:
            client.send(b"\x00and more")
            await settled()
            assert client.look() == (b"\x00", True)
    assert names(events) == ["listening", "connected", "heartbeat", "done"]


@pytest.mark.parametrize("leave", [Client.close, Client.half_close])
async def test_a_connection_without_a_byte_is_no_heartbeat(
    path: Path, leave: Callable[[Client], None]
) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            leave(client)
            await settled()
        with Client(path) as client:
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)
    assert isinstance(events[2], Disconnected)
    assert names(events)[3:] == ["connected", "heartbeat", "done"]


async def test_a_client_that_half_closes_after_its_byte_is_answered(path: Path) -> None:
    async with serving(f"unix:{path}"):
        with Client(path) as client:
            client.send(B7)
            client.half_close()
            await settled()
            assert client.look() == (B7, True)


async def test_a_megabyte_after_the_byte_changes_nothing(path: Path) -> None:
    async with serving(f"unix:{path}"):
        with Client(path) as client:
            client.send(B7 + bytes(1_000_000))
            await settled()
            assert client.look() == (B7, True)


async def test_a_client_that_sent_more_than_its_byte_sees_an_end_and_no_reset(path: Path) -> None:
    async with serving(f"unix:{path}"):
        with Client(path) as client:
            client.send(B7 + b"\r\n")
            await settled()
            assert [client.sock.recv(1), client.sock.recv(1)] == [B7, b""]


async def test_an_answered_address_is_closed_while_another_still_waits(tmp_path: Path) -> None:
    async with serving(f"unix:{tmp_path}/a", f"unix:{tmp_path}/b") as events:
        with Client(tmp_path / "a") as client:
            client.send(B7)
            await settled()
        assert isinstance(events[-1], Done)
        assert str(events[-1].address) == f"unix:{tmp_path}/a"
        assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


async def test_the_handle_knows_every_address_in_order(tmp_path: Path) -> None:
    addresses = [f"unix:{tmp_path}/b", f"hybrid:{tmp_path}/a:9000"]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_heartbeat, *addresses)
        assert [str(address) for address in server.addresses] == addresses
        nursery.cancel_scope.cancel()


async def test_a_heartbeat_has_the_time_of_its_byte_not_of_its_connection(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            await settled()
            when = datetime(2026, 3, 4, tzinfo=UTC)
            monkeypatch.setattr("nitrohb.connection.utc_now", lambda: when)
            client.send(B7)
            await settled()
    assert isinstance(events[2], Heartbeat)
    assert events[2].received_at == when
    assert events[1].time != when


async def test_a_heartbeat_whose_echo_fails_still_counts(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            client.send(B7)
        await settled()
    assert names(events) == ["listening", "connected", "heartbeat", "done"]
    assert isinstance(events[2], Heartbeat)
    assert not events[2].echoed


async def test_a_silent_client_is_closed_at_its_deadline_and_delays_nobody(
    path: Path, autojump_clock: MockClock
) -> None:
    async with serving(f"unix:{path}", once=False, handshake_timeout=2.5) as events:
        with Client(path) as silent, Client(path) as enclave:
            await trio.sleep(2.25)
            enclave.send(B7)
            await settled()
            assert enclave.look() == (B7, True)
            assert silent.look() == (b"", False)
            await trio.sleep(0.25)
            await settled()
            assert silent.look() == (b"", True)
    (refusal,) = [event for event in events if isinstance(event, Rejected)]
    assert (refusal.reason, refusal.byte) == (RejectReason.TIMEOUT, None)


async def test_the_deadline_may_be_infinite(path: Path, autojump_clock: MockClock) -> None:
    async with serving(f"unix:{path}", handshake_timeout=math.inf):
        with Client(path) as client:
            await trio.sleep(1e6)
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)


async def test_when_one_is_answered_the_others_are_closed(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as silent, Client(path) as enclave:
            await settled()
            enclave.send(B7)
            await settled()
            assert silent.look() == (b"", True)
    assert names(events)[3:] == ["heartbeat", "rejected", "done"]
    assert isinstance(events[4], Rejected)
    assert events[4].reason is RejectReason.ANSWERED


async def test_of_two_bytes_that_come_together_one_is_answered(path: Path) -> None:
    async with serving(f"unix:{path}") as events:
        with Client(path) as one, Client(path) as two:
            await settled()
            one.send(B7)
            two.send(B7)
            await settled()
            assert sorted([one.look(), two.look()]) == [(b"", True), (B7, True)]
    assert sorted(names(events)[3:]) == ["done", "heartbeat", "rejected"]


async def test_without_once_it_goes_on(path: Path) -> None:
    async with serving(f"unix:{path}", once=False) as events:
        for _ in range(3):
            with Client(path) as client:
                client.send(B7)
                await settled()
                assert client.look() == (B7, True)
    assert names(events) == ["listening", *["connected", "heartbeat"] * 3]
    assert not path.exists()


async def test_what_still_waits_when_the_server_is_cancelled_is_not_reported_as_late(
    path: Path,
) -> None:
    with contextlib.ExitStack() as clients:
        async with serving(f"unix:{path}", once=False) as events:
            enclave, silent = (clients.enter_context(Client(path)) for _ in range(2))
            enclave.send(B7)
            await settled()
        assert silent.look() == (b"", True)
    assert sorted(names(events)) == ["connected", "connected", "heartbeat", "listening"]


async def test_the_cid_of_the_peer_is_reported(path: Path) -> None:
    with PeersWithCids(path) as listener:
        async with serving(listener) as events:
            with listener.connect(cid=16) as client:
                client.send(B7)
                await settled()
    assert isinstance(events[2], Heartbeat)
    assert (events[2].peer, events[2].cid) == (VsockAddress(16, 1024), 16)


async def test_a_cid_that_is_not_allowed_is_closed_before_anything_is_read(path: Path) -> None:
    with PeersWithCids(path) as listener:
        async with serving(listener, allow_cids={16, 18}) as events:
            with listener.connect(cid=17) as stranger, listener.connect(cid=16) as enclave:
                stranger.send(B7)
                await settled()
                assert stranger.look() == (b"", True)
                enclave.send(B7)
                await settled()
                assert enclave.look() == (B7, True)
    (refusal,) = [event for event in events if isinstance(event, Rejected)]
    assert (refusal.cid, refusal.reason, refusal.byte) == (17, RejectReason.CID, None)


async def test_an_allow_list_on_a_unix_socket_is_a_usage_error(path: Path) -> None:
    with pytest.raises(UsageError, match=r"hb is a Unix socket, whose peers have no CID"):
        await serve_heartbeat(f"unix:{path}", allow_cids={16})
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with pytest.raises(UsageError, match=r"fd:\d+ is a Unix socket"):
            await serve_heartbeat(sock, allow_cids={16})
        assert sock.fileno() == -1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"allow_cids": ()}, "allow_cids is empty"),
        ({"allow_cids": {"16"}}, "expected CIDs from 0 to 4294967294, got '16'"),
        ({"allow_cids": {-1}}, "got -1"),
        ({"allow_cids": {2**32 - 1}}, "got 4294967295"),
        ({"handshake_timeout": 0}, "handshake_timeout must be more than 0 s, got 0"),
        ({"handshake_timeout": -1.5}, "got -1.5"),
        ({"handshake_timeout": math.nan}, "got nan"),
    ],
)
async def test_arguments_that_make_no_sense(
    path: Path, options: dict[str, Any], complaint: str
) -> None:
    listener = open_listeners([f"unix:{path}"])[0]
    with pytest.raises(UsageError, match=complaint):
        await serve_heartbeat(listener, **options)
    assert listener.sock.fileno() == -1


@pytest.mark.parametrize("nonsense", [9000, None, b"vsock::9000", ("vsock", 9000)])
async def test_what_is_nothing_to_listen_on(nonsense: Any) -> None:
    with pytest.raises(UsageError, match="is nothing to listen on: expected an address"):
        await serve_heartbeat(nonsense)


async def test_a_socket_that_is_handed_in_is_closed_and_its_file_left_alone(path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    async with serving(sock) as events:
        assert events[0].address == InheritedSocket(sock.fileno())
        with Client(path) as client:
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)
    assert sock.fileno() == -1
    assert path.exists()


async def test_a_listener_that_is_handed_in_has_listened_for_a_while(
    path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (listener,) = open_listeners([f"unix:{path}"])
    monkeypatch.setattr(Listener, "age", 2.5)
    async with serving(listener) as events:
        assert events[0].time == listener.time
        with Client(path) as client:
            client.send(B7)
            await trio.sleep(1)
    assert isinstance(events[2], Heartbeat)
    assert events[2].listening_seconds == 2.5


async def test_it_goes_on_when_nobody_observes(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_heartbeat, f"unix:{path}", once=False))
        for _ in range(2):
            with Client(path) as client:
                client.send(B7)
                await settled()
                assert client.look() == (B7, True)
        nursery.cancel_scope.cancel()


async def test_a_crowd_is_answered_in_batches_that_let_others_have_their_turn(
    tmp_path: Path,
) -> None:
    busy, quiet = (open_listeners([f"unix:{tmp_path}/{name}"])[0] for name in ("busy", "quiet"))
    with contextlib.ExitStack() as clients:
        crowd = [clients.enter_context(Client(tmp_path / "busy")) for _ in range(200)]
        single = clients.enter_context(Client(tmp_path / "quiet"))
        for client in [*crowd, single]:
            client.send(B7)
        async with serving(busy, quiet, once=False) as events:
            await settled()
            assert all(client.look() == (B7, True) for client in [*crowd, single])
    order = [str(event.address) for event in events if isinstance(event, Heartbeat)]
    assert len(order) == 201
    assert order.index(f"unix:{tmp_path}/quiet") <= 64


async def test_a_callback_that_fails_on_a_new_connection_leaves_nothing_open(path: Path) -> None:
    def fail_on_connected(event: Event) -> None:
        if event.name == "connected":
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_heartbeat, f"unix:{path}", on_event=fail_on_connected)
            await nursery.start(serve)
            Client(path).close()
    assert not path.exists()


async def test_a_callback_that_runs_out_of_descriptors_is_not_taken_for_accept(
    path: Path,
) -> None:
    def fail_on_connected(event: Event) -> None:
        if event.name == "connected":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with pytest.RaisesGroup(OSError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_heartbeat, f"unix:{path}", on_event=fail_on_connected)
            await nursery.start(serve)
            Client(path).close()


async def test_a_failing_callback_ends_the_server_and_closes_everything(path: Path) -> None:
    def fail_on_done(event: Event) -> None:
        if isinstance(event, Done):
            raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, f"unix:{path}", on_event=fail_on_done))
            with Client(path) as client:
                client.send(B7)
                await settled()
    assert not path.exists()


class _Scripted(Listener):
    """A real listener whose accept() first goes through a script of failures."""

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


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EAGAIN])
async def test_an_error_of_one_connection_is_ignored(
    path: Path, number: int, autojump_clock: MockClock
) -> None:
    listener = _Scripted(path, number, number)
    async with serving(listener):
        start = trio.current_time()
        with Client(path) as client:
            client.send(B7)
            await settled()
            assert client.look() == (B7, True)
        assert listener.times == [start] * 3


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_exhaustion_is_waited_out(path: Path, number: int, autojump_clock: MockClock) -> None:
    listener = _Scripted(path, number, number)
    async with serving(listener):
        start = trio.current_time()
        with Client(path) as client:
            client.send(B7)
            await trio.sleep(1)
            assert client.look() == (B7, True)
        assert [time - start for time in listener.times] == pytest.approx([0, 0.1, 0.2])


async def test_a_listener_that_breaks_ends_the_server(path: Path) -> None:
    def is_about_the_address(error: ListenError) -> bool:
        return error.address == f"unix:{path}" and error.errno == errno.EBADF

    with pytest.RaisesGroup(
        pytest.RaisesExc(ListenError, check=is_about_the_address), flatten_subgroups=True
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_heartbeat, _Scripted(path, errno.EBADF))
            Client(path).close()
    assert not path.exists()


async def test_a_socket_that_another_holder_shuts_down_ends_the_server(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        with pytest.RaisesGroup(
            pytest.RaisesExc(ListenError, match="has shut it down"), flatten_subgroups=True
        ):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_heartbeat, sock.dup())
                sock.shutdown(socket.SHUT_RDWR)


class _FailingIO:
    """Stands in for ``os`` where connections are read and written: fails as scripted."""

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
    monkeypatch.setattr(wire, "os", _FailingIO(read=number))
    async with serving(f"unix:{path}") as events:
        with Client(path):
            await settled()
        assert names(events) == ["listening", "connected", "disconnected"]


async def test_an_echo_that_finds_no_room_waits_until_the_deadline(
    path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = _FailingIO(write=errno.EAGAIN)
    monkeypatch.setattr(wire, "os", scripted)
    # The socket itself is writable, so that each wait ends at once: let the clock run on real
    # steps of the loop instead of on idleness.
    autojump_clock.rate = 1000
    async with serving(f"unix:{path}") as events:
        with Client(path) as client:
            client.send(B7)
            while names(events)[-1] != "done":
                await trio.sleep(0.5)
            assert client.look() == (b"", True)
    beat = events[2]
    assert isinstance(beat, Heartbeat)
    assert not beat.echoed
    assert beat.echo_seconds >= 5
    assert scripted.writes > 1


async def test_what_nobody_learns_of_is_answered_all_the_same(path: Path) -> None:
    """Without a callback, and with nobody who could wait for it, no event is even made."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_heartbeat, f"unix:{path}", once=False))
        await settled()
        for before in (True, False):
            with Client(path) as client:
                if not before:
                    await settled()
                client.send(B7)
                await settled()
                assert client.look() == (B7, True)
        nursery.cancel_scope.cancel()
