# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: what is sent, to whom, and who is cut off."""

import json
from pathlib import Path

import trio
from trio.testing import MockClock

from tests.support import Client, settled
from tests.test_handout import beat

from .conftest import running


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
    async with running(f"unix:{path}") as api:
        await settled()
        reader = api.client.begin("GET", "/events")
        await settled()
        assert reader.headers["content-type"].startswith("text/event-stream")
        assert reader.body == b": hello\n\n"
        await beat(Client(path))
        assert parse(reader.body) == [(2, "connected"), (3, "heartbeat")]
        await beat(Client(path))
        assert parse(reader.body)[2:] == [(4, "connected"), (5, "heartbeat")]
        reader.go_away()
        await settled()
        assert reader.is_over


async def test_who_comes_back_gets_what_he_has_missed(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await beat(Client(path))
        for last, events in (
            ("1", [(2, "connected"), (3, "heartbeat")]),
            ("3", []),
            ("4", []),
            ("x", []),
        ):
            reader = api.client.begin("GET", "/events", headers={"last-event-id": last})
            await settled()
            assert parse(reader.body) == events


async def test_a_comment_keeps_it_alive(path: Path, autojump_clock: MockClock) -> None:
    async with running(f"unix:{path}") as api:
        reader = api.client.begin("GET", "/events")
        await trio.sleep(31)
        assert reader.body.count(b": still here\n\n") == 2


async def test_who_does_not_read_is_cut_off(path: Path, autojump_clock: MockClock) -> None:
    async with running(f"unix:{path}") as api:
        reader = api.client.begin("GET", "/events")
        await trio.sleep(1)
        reader.reads = False
        await beat(Client(path))
        await trio.sleep(9.9)
        assert not reader.is_over
        await trio.sleep(0.2)
        assert reader.is_over


async def test_who_falls_behind_is_cut_off(path: Path, mock_clock: MockClock) -> None:
    async with running(f"unix:{path}") as api:
        reader = api.client.begin("GET", "/events")
        await settled()
        reader.pauses = 1.0
        await beat(Client(path))
        for _ in range(129):
            await beat(Client(path))
        mock_clock.jump(1)
        await settled()
        assert reader.is_over
        late = api.client.begin("GET", "/events", headers={"last-event-id": "2"})
        await settled()
        assert parse(late.body) == []


async def test_readers_are_so_many_at_most(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        readers = [api.client.begin("GET", "/events") for _ in range(64)]
        await settled()
        assert (await api.client.get("/events")).is_problem(503, "64 others")
        readers[0].go_away()
        await settled()
        another = api.client.begin("GET", "/events")
        await settled()
        assert another.status == 200


async def test_a_head_is_no_reader(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        head = await api.client.whole(api.client.begin("HEAD", "/events"))
        assert head.headers["content-type"].startswith("text/event-stream")
        assert head.body == b""
