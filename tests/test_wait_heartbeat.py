# SPDX-License-Identifier: Apache-2.0
"""Waiting for the heartbeats of a running server, and rearming it, in virtual time."""

import math
import os
import socket
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from nitrohb import (
    Connected,
    Event,
    Heartbeat,
    HeartbeatServer,
    HeartbeatTimeoutError,
    NoHeartbeatError,
    Rejected,
    RejectReason,
    UnixAddress,
    UnixPeer,
    UsageError,
    VsockAddress,
    serve_heartbeat,
)
from nitrohb.claims import ClaimFilter, ClaimQueue
from tests.support import B7, Client, PeersWithCids, beat, names, settled


@asynccontextmanager
async def running(*listen: Any, **options: Any) -> AsyncGenerator[HeartbeatServer]:
    """Run a server, by default with ``keep``."""
    options = {"keep": True} | options
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve_heartbeat, *listen, **options))
        nursery.cancel_scope.cancel()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


@pytest.fixture
def vsock(tmp_path: Path) -> PeersWithCids:
    return PeersWithCids(tmp_path / "vsock")


class Asking:
    """A task that waits for a heartbeat."""

    def __init__(self, nursery: trio.Nursery, server: HeartbeatServer, **wanted: Any) -> None:
        self.scope = trio.CancelScope()
        self.got: Heartbeat | None = None
        self.error: NoHeartbeatError | None = None
        nursery.start_soon(partial(self._ask, server, **wanted))

    async def _ask(self, server: HeartbeatServer, **wanted: Any) -> None:
        with self.scope:
            try:
                self.got = await server.wait_heartbeat(**wanted)
            except NoHeartbeatError as error:
                self.error = error


async def test_a_heartbeat_is_claimed_once(path: Path) -> None:
    async with running(f"unix:{path}") as server, trio.open_nursery() as nursery:
        await beat(Client(path))
        (last,) = server.last_heartbeats()
        assert await server.wait_heartbeat() is last
        asking = Asking(nursery, server)
        await settled()
        assert asking.got is None
        assert server.last_heartbeats() == [last]
        await beat(Client(path))
        assert asking.got is not last
        assert [asking.got] == server.last_heartbeats()


async def test_a_heartbeat_at_the_end_of_the_time_is_claimed(autojump_clock: MockClock) -> None:
    """trio shuffles the tasks, so the heartbeat can arrive before the end is noticed, or after."""
    where = UnixAddress("/x")
    beat = Heartbeat(
        address=where,
        time=datetime.now(UTC),
        peer=UnixPeer(1, 0, 0),
        listening_seconds=0.0,
        echo_seconds=0.0,
        echoed=True,
    )
    for _ in range(30):
        queue, has_come = ClaimQueue(), trio.Event()
        queue.open(where, False)

        async def deliver(queue: ClaimQueue = queue, has_come: trio.Event = has_come) -> None:
            await trio.sleep(1)
            queue.deliver(beat)
            has_come.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(deliver)
            got = await queue.claim(ClaimFilter(max_age=0.0), 1)
            assert (got is beat) == has_come.is_set()


async def test_the_longest_wait_gets_the_first_matching_heartbeat(
    vsock: PeersWithCids,
) -> None:
    async with running(vsock) as server, trio.open_nursery() as nursery:
        wanted: list[dict[str, int]] = [{"cid": 17}, {}, {"cid": 16}, {"cid": 17}, {"cid": 16}]
        asking: list[Asking] = []
        for each in wanted:
            asking.append(Asking(nursery, server, **each))
            await settled()
        for cid in (16, 16, 16, 17, 17):
            await beat(vsock.connect(cid))
        cids = [each.got.cid for each in asking if each.got is not None]
        assert cids == [17, 16, 16, 17, 16]


async def test_by_address(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with running(f"unix:{a}", f"unix:{b}") as server:
        await beat(Client(a))
        await beat(Client(b))
        for_b = await server.wait_heartbeat(address=f"unix:{b}")
        for_a = await server.wait_heartbeat(address=UnixAddress(str(a)))
        assert (str(for_a.address), str(for_b.address)) == (f"unix:{a}", f"unix:{b}")
        assert server.last_heartbeats() == [for_a, for_b]


@pytest.mark.parametrize(("age", "fresh"), [(60.0, True), (60.5, False)])
async def test_a_heartbeat_that_is_too_old_is_of_an_earlier_boot(
    path: Path, mock_clock: MockClock, age: float, fresh: bool
) -> None:
    async with running(f"unix:{path}") as server, trio.open_nursery() as nursery:
        await beat(Client(path))
        mock_clock.jump(age)
        asking = Asking(nursery, server)
        await settled()
        asking.scope.cancel()
        if not fresh:
            assert asking.got is None
            asking.got = await server.wait_heartbeat(max_age=math.inf)
        assert [asking.got] == server.last_heartbeats()


async def test_a_cancelled_wait_claims_nothing(path: Path) -> None:
    """Just before the heartbeat, so that the next waiter gets it, or just after."""
    async with running(f"unix:{path}") as server, trio.open_nursery() as nursery:
        asking = [Asking(nursery, server)]
        await settled()
        asking += [Asking(nursery, server)]
        await settled()
        asking[0].scope.cancel()
        await beat(Client(path))
        asking[1].scope.cancel()
        assert [each.got for each in asking] == [None, *server.last_heartbeats()]


async def test_it_always_executes_a_checkpoint_and_claims_nothing_if_cancelled(
    path: Path,
) -> None:
    async with running(f"unix:{path}") as server:
        await beat(Client(path))
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.wait_heartbeat()
        assert scope.cancelled_caught
        with trio.testing.assert_checkpoints():
            assert await server.wait_heartbeat() in server.last_heartbeats()


async def test_a_one_shot_server_that_has_ended_still_has_its_heartbeats(path: Path) -> None:
    async with running(f"unix:{path}", keep=False) as server:
        await beat(Client(path))
        assert not path.exists()
        assert (await server.wait_heartbeat()).echoed
        with pytest.raises(NoHeartbeatError) as caught:
            await server.wait_heartbeat()
        assert (caught.value.cid, caught.value.address, caught.value.ended) == (None, None, True)


async def test_a_wait_for_an_address_that_is_done_fails(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with (
        running(f"unix:{a}", f"unix:{b}", keep=False) as server,
        trio.open_nursery() as nursery,
    ):
        for_a = Asking(nursery, server, address=f"unix:{a}")
        await settled()
        late = Asking(nursery, server, address=f"unix:{a}")
        for_any = Asking(nursery, server)
        await settled()
        await beat(Client(a))
        assert for_a.got is not None
        assert late.error is not None
        assert (late.error.address, late.error.ended) == (UnixAddress(str(a)), False)
        assert f"unix:{a}" in str(late.error)
        assert (for_any.got, for_any.error) == (None, None)
        await beat(Client(b))
        assert for_any.got is not None


async def test_a_wait_for_a_server_that_has_ended_fails(vsock: PeersWithCids) -> None:
    async with trio.open_nursery() as nursery:
        async with running(vsock) as server:
            asking = Asking(nursery, server, cid=16)
            await settled()
        await settled()
        assert asking.error is not None
        assert (asking.error.cid, asking.error.address, asking.error.ended) == (16, None, True)
        assert "CID 16" in str(asking.error)


async def test_a_wait_for_a_server_that_has_failed_raises_its_error(path: Path) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, Connected):
            raise ZeroDivisionError

    asking: list[Asking] = []
    async with trio.open_nursery() as nursery:
        with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
            async with running(f"unix:{path}", on_event=fail) as server:
                asking.append(Asking(nursery, server))
                await settled()
                with Client(path):
                    await settled()
        await settled()
        assert asking[0].error is not None
        assert isinstance(asking[0].error.__cause__, (ZeroDivisionError, ExceptionGroup))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"address": "unix:/elsewhere"}, "does not listen on unix:/elsewhere, but on unix:.*/hb\n"),
        ({"address": "nonsense"}, "nonsense"),
        ({"address": 9000}, "^9000 is not an address"),
        ({"address": ["unix:x"]}, r"\['unix:x'\] is not an address"),
        ({"cid": 16}, "unix:.*/hb have no CID"),
        ({"cid": -1}, r"cid: -1 is not valid\n.*0 to 4294967294"),
        ({"max_age": -1.0}, r"max_age cannot be -1.0\n.*at least 0 s"),
        ({"max_age": math.nan}, r"max_age cannot be nan\nPass "),
        ({"max_age": "60"}, r"max_age cannot be '60'\n.*number"),
        ({"timeout": -1}, r"timeout cannot be -1\n.*at least 0 s"),
        ({"timeout": "60"}, r"timeout cannot be '60'\n.*number"),
    ],
)
async def test_wrong_arguments(path: Path, wanted: dict[str, Any], message: str) -> None:
    async with running(f"unix:{path}") as server:
        with pytest.raises(UsageError, match=message):
            await server.wait_heartbeat(**wanted)


async def test_a_wait_for_a_cid_needs_an_address_on_vsock(path: Path, vsock: PeersWithCids) -> None:
    async with running(f"unix:{path}", vsock) as server:
        await beat(Client(path))
        await beat(vsock.connect(16))
        assert (await server.wait_heartbeat(cid=16)).address == VsockAddress(3, 9000)
        with pytest.raises(UsageError, match=f"unix:{path} have no CID"):
            await server.wait_heartbeat(cid=16, address=f"unix:{path}")


async def test_a_cid_that_is_never_answered(vsock: PeersWithCids) -> None:
    async with running(vsock, allow_cids={16}) as server:
        with pytest.raises(UsageError, match=r"CID 17: .*not allowed"):
            await server.wait_heartbeat(cid=17)
        await beat(vsock.connect(16))
        assert (await server.wait_heartbeat(cid=16)).cid == 16


# --- a wait that times out ----------------------------------------------------------------------

KINDS = {
    "wrong byte": "sent 0x78 instead of 0xB7",
    "no byte": "closed without a byte",
    "silent": "had sent nothing yet",
    "claimed": "sent a heartbeat that was already claimed or dropped, is too old, or came from"
    " another CID",
}
steps = st.tuples(st.sampled_from([0, 0, 20, 50]), st.sampled_from(sorted(KINDS)), st.booleans())


async def play(where: Path, kind: str, clients: ExitStack, server: HeartbeatServer) -> None:
    client = clients.enter_context(Client(where))
    if kind == "wrong byte":
        client.send(b"x")
    elif kind == "no byte":
        client.close()
    elif kind == "claimed":
        await beat(client)
        await server.wait_heartbeat()
    await settled()


@given(script=st.lists(steps, max_size=40), asks_for_one=st.booleans(), age=st.integers(0, 90))
def test_a_timeout_reports_what_came_instead(
    script: list[tuple[int, str, bool]], asks_for_one: bool, age: int
) -> None:
    """The model: the last 16 connections of each address within max_age, and all silent ones."""

    async def main() -> None:
        noted = list[tuple[float, Path, str]]()
        silent = list[tuple[Path, str]]()
        with TemporaryDirectory() as directory, ExitStack() as clients:
            one, other = Path(directory, "1"), Path(directory, "2")
            listen = f"unix:{one}", f"unix:{other}"
            async with running(*listen, handshake_timeout=math.inf) as server:
                for pause, kind, is_one in script:
                    await trio.sleep(pause)
                    where = one if is_one else other
                    await play(where, kind, clients, server)
                    if kind == "silent":
                        silent.append((where, KINDS[kind]))
                    else:
                        noted.append((trio.current_time(), where, KINDS[kind]))
                address, asked = f"unix:{one}" if asks_for_one else None, trio.current_time()
                with pytest.raises(HeartbeatTimeoutError) as caught:
                    await server.wait_heartbeat(address=address, max_age=age, timeout=7)
                assert trio.current_time() == asked + 7
        expected = list[tuple[Path, str]]()
        for where in [one] if asks_for_one else [one, other]:
            last = [entry for entry in noted if entry[1] == where][-16:]
            expected += [
                (where, what)
                for time, _, what in last
                if time >= asked - age or what == KINDS["claimed"]
            ]
        expected += [entry for entry in silent if entry[0] == one or not asks_for_one]
        instead = caught.value.instead
        assert [(str(it.address), it.outcome) for it in instead] == [
            (f"unix:{where}", what) for where, what in expected
        ]
        counts = Counter(what for _, what in expected)
        told = [f"{count} {what}" for what, count in counts.items()] or ["nobody connected"]
        assert not [each for each in told if each not in str(caught.value)]

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_timeout_reports_a_heartbeat_of_another_cid(
    vsock: PeersWithCids, autojump_clock: MockClock
) -> None:
    async with running(vsock) as server:
        await beat(vsock.connect(17))
        with pytest.raises(HeartbeatTimeoutError, match=r"from CID 16 .*as CID 17") as caught:
            await server.wait_heartbeat(cid=16, timeout=60)
        assert caught.value.instead == tuple(server.last_heartbeats())
        assert (await server.wait_heartbeat(timeout=0)).cid == 17


async def test_a_timeout_reports_nothing_of_a_removed_address(
    path: Path, autojump_clock: MockClock
) -> None:
    async with running(f"unix:{path}") as server:
        with Client(path):
            await settled()
            server.unlisten(f"unix:{path}")
        server.listen(f"unix:{path}")
        with pytest.raises(HeartbeatTimeoutError, match="nobody connected") as caught:
            await server.wait_heartbeat(timeout=60)
        assert caught.value.instead == ()


async def test_a_timeout_reports_a_silent_connection_with_its_time(
    path: Path, autojump_clock: MockClock
) -> None:
    async with running(f"unix:{path}") as server:
        with Client(path):
            await trio.sleep(2)
            with pytest.raises(HeartbeatTimeoutError) as caught:
                await server.wait_heartbeat(timeout=1)
        (silent,) = caught.value.instead
        assert isinstance(silent, Connected)
        assert 2.9 < (datetime.now(UTC) - silent.time).total_seconds() < 3.1 + 60


async def test_an_inherited_address_has_its_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        names_ = ":".join(f"n{number}" for number in range(3, sock.fileno() + 1))
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", str(names_.count(":") + 1))
        monkeypatch.setenv("LISTEN_FDNAMES", names_)
        name = f"fd:n{sock.fileno()}"
        async with running(name) as server:
            await beat(Client(path))
            assert (await server.wait_heartbeat(address=name)).address == f"fd:{sock.detach()}"
            server.rearm(name)
            with pytest.raises(UsageError, match="does not listen on fd:other"):
                server.rearm("fd:other")
            server.unlisten(name)
            assert server.addresses == ()


# --- rearm --------------------------------------------------------------------------------------


async def test_rearm_closes_pending_connections_and_answers_the_next(path: Path) -> None:
    events: list[Event] = []
    async with running(f"unix:{path}", keep=False, on_event=events.append) as server:
        with Client(path) as client:
            await settled()
            server.rearm()
            await settled()
            assert client.look() == (b"", True)
        await beat(Client(path))
        assert names(events) == [
            *("listening", "connected", "rejected", "connected", "heartbeat", "done")
        ]
        assert isinstance(events[2], Rejected)
        assert events[2].reason is RejectReason.REARMED


async def test_rearm_just_after_a_byte_still_drops_it(path: Path) -> None:
    async with running(f"unix:{path}") as server:
        with Client(path) as client:
            await settled()
            client.send(B7)
            server.rearm(f"unix:{path}")
            await settled()
            assert client.look() == (b"", True)
        assert server.last_heartbeats() == []


async def test_rearm_drops_the_heartbeat_of_that_address_only(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with running(f"unix:{a}", f"unix:{b}") as server, trio.open_nursery() as nursery:
        await beat(Client(a))
        await beat(Client(b))
        with Client(b) as other:
            await settled()
            server.rearm(UnixAddress(str(a)))
            asking = Asking(nursery, server, address=f"unix:{a}")
            await settled()
            assert asking.got is None
            await beat(other)
        assert (await server.wait_heartbeat(address=f"unix:{b}")).echoed
        asking.scope.cancel()


@pytest.mark.parametrize(
    ("where", "complaint"), [(None, "unix:.*/hb: .* closed"), ("unix:/b", "not listen on unix:/b")]
)
async def test_an_address_that_cannot_be_rearmed(
    path: Path, where: str | None, complaint: str
) -> None:
    async with running(f"unix:{path}", keep=False) as server:
        await beat(Client(path))
        with pytest.raises(UsageError, match=complaint):
            server.rearm(where)


async def test_rearm_by_the_event_of_a_heartbeat_is_too_late(path: Path) -> None:
    refused: list[UsageError] = []

    def rearm(event: Event) -> None:
        if isinstance(event, Heartbeat):
            with pytest.raises(UsageError, match="is closed") as caught:
                server.rearm()
            refused.append(caught.value)

    async with running(f"unix:{path}", keep=False, on_event=rearm) as server:
        await beat(Client(path))
    assert len(refused) == 1


async def test_rearm_keeps_the_port_open(path: Path) -> None:
    """Clients in the queue that are not accepted yet belong to the new boot."""
    async with running(f"unix:{path}") as server:
        clients = [Client(path) for _ in range(3)]
        server.rearm()
        for client in clients:
            await beat(client)
