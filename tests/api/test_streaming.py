# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: what is sent, to which clients, and which clients are cut off."""

import json
from pathlib import Path

import trio
from trio.testing import MockClock

from nitrohb import Listening, UnixAddress
from nitrohb.api.streaming import EventLog
from nitrohb.events import utc_now
from tests.support import settled

from .support import Passes, beat, running

LISTENING = Listening(address=UnixAddress("/x"), time=utc_now())


def parse(body: bytes) -> list[tuple[int, str]]:
    """The number and the name of each event. Its data must agree."""
    events: list[tuple[int, str]] = []
    for block in body.decode().split("\n\n")[:-1]:
        if not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            assert json.loads(fields["data"])["event"] == fields["event"]
            events.append((int(fields["id"]), fields["event"]))
    return events


async def test_events_come_as_they_happen(path: Path) -> None:
    async with running(path) as api:
        reader = api.client.begin("GET", "/events")
        await settled()
        assert reader.headers["content-type"].startswith("text/event-stream")
        assert reader.body == b": hello\n\n"
        await beat(path)
        assert parse(reader.body) == [(2, "connected"), (3, "heartbeat")]
        await beat(path)
        assert parse(reader.body)[2:] == [(4, "connected"), (5, "heartbeat")]
        reader.disconnect()
        await settled()
        assert reader.is_over


async def test_a_client_that_comes_back_gets_what_it_has_missed(path: Path) -> None:
    async with running(path) as api:
        await beat(path)
        for last in ("1", "3", "4", "x"):
            reader = api.client.begin("GET", "/events", headers={"last-event-id": last})
            await settled()
            missed = [(2, "connected"), (3, "heartbeat")] if last == "1" else []
            assert parse(reader.body) == missed, last


async def test_a_comment_keeps_it_alive(path: Path, clock: MockClock) -> None:
    async with running(path) as api:
        reader = api.client.begin("GET", "/events")
        await trio.sleep(31)
        assert reader.body.count(b": still here\n\n") == 2


async def test_a_client_that_falls_behind_is_cut_off(path: Path, mock_clock: MockClock) -> None:
    async with running(path) as api:
        reader = api.client.begin("GET", "/events")
        await settled()
        reader.pauses = 1.0
        for _ in range(130):
            await beat(path)
        for _ in range(2):
            mock_clock.jump(1)
            await settled()
        assert reader.is_over
        late = api.client.begin("GET", "/events", headers={"last-event-id": "2"})
        await settled()
        assert [number for number, _ in parse(late.body)] == [*range(6, 262)]


async def test_a_head_request_gets_no_events(path: Path) -> None:
    async with running(path) as api:
        head = await api.client.whole(api.client.begin("HEAD", "/events"))
        assert head.headers["content-type"].startswith("text/event-stream")
        assert head.body == b""


async def test_readers_wake_up_one_by_one() -> None:
    log = EventLog()
    passes = Passes()
    woken: list[int] = []

    async def read() -> None:
        assert "event: listening" in await log.read(0)
        woken.append(passes.count)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
        await settled()
        trio.lowlevel.add_instrument(passes)
        for _ in range(3):
            log.append(LISTENING)
    assert len(set(woken)) == len(woken) == 10


async def test_a_reader_that_goes_away_does_not_block_the_others() -> None:
    log = EventLog()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(log.read, 0)
        await settled()
        async with trio.open_nursery() as going:
            going.start_soon(log.read, 0)
            await settled()
            going.cancel_scope.cancel()
        log.append(LISTENING)
    assert log.last == 1


async def test_a_reader_that_is_woken_without_news_keeps_waiting(clock: MockClock) -> None:
    log = EventLog()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.read, 0)
        await settled()
        log.append(LISTENING)
        nursery.start_soon(log.read, 1)
        with trio.move_on_after(1) as waiting:
            await log.read(1)  # queues before the first reader runs, which calls it
        assert waiting.cancelled_caught
        log.append(LISTENING)  # calls the other one, or the nursery does not end
