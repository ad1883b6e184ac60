# SPDX-License-Identifier: Apache-2.0
"""Requests that take long have a limit in number, and leave room for short ones."""

from pathlib import Path

from nitrohb.api.places import CLAIMS, READERS
from nitrohb.api.serving import CONNECTIONS
from tests.support import settled

from .conftest import beat, running


def test_there_is_always_room_for_a_short_request() -> None:
    assert CLAIMS + READERS < CONNECTIONS


async def test_so_many_claims_may_wait_and_no_more(path: Path) -> None:
    async with running(path) as api:
        waiting = [api.client.begin("POST", "/claims", {}) for _ in range(CLAIMS)]
        await settled()
        refused = await api.client.post("/claims", {})
        assert refused.is_problem(503, str(CLAIMS))
        assert refused.headers["connection"] == "close"
        assert (await api.client.get("/healthz")).status == 200
        await beat(path)
        assert [claim.status for claim in waiting if claim.has_begun] == [200]
        again = api.client.begin("POST", "/claims", {})
        await settled()
        assert not again.has_begun


async def test_so_many_may_read_events_and_no_more(path: Path) -> None:
    async with running(path) as api:
        readers = [api.client.begin("GET", "/events") for _ in range(READERS)]
        await settled()
        assert (await api.client.get("/events")).is_problem(503, str(READERS))
        readers[0].go_away()
        await settled()
        # Whatever a client says it has seen last, its place is free again afterwards.
        for seen in ("9" * 5000, "9" * 19, "-1", "1.5", "\u0661", "x", ""):
            reader = api.client.begin("GET", "/events", headers={"last-event-id": seen})
            await settled()
            assert reader.status == 200, seen
            reader.go_away()
            await settled()
