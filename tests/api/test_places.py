# SPDX-License-Identifier: Apache-2.0
"""What takes long cannot take everything."""

from pathlib import Path

import pytest

from nitrohb.api.places import CLAIMS, READERS
from nitrohb.api.serving import CONNECTIONS
from tests.support import Client, settled
from tests.test_handout import beat

from .conftest import running


def test_there_is_always_room_for_a_short_question() -> None:
    assert CLAIMS + READERS < CONNECTIONS


async def test_so_many_claims_may_wait_and_no_more(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        waiting = [api.client.begin("POST", "/claims", {}) for _ in range(CLAIMS)]
        await settled()
        refused = await api.client.post("/claims", {})
        assert refused.is_problem(503, f"{CLAIMS} others wait for heartbeats already")
        assert refused.headers["connection"] == "close"
        assert (await api.client.get("/healthz")).status == 200
        await beat(Client(path))
        await settled()
        assert [claim.status for claim in waiting if claim.has_begun] == [200]
        again = api.client.begin("POST", "/claims", {})
        await settled()
        assert not again.has_begun


@pytest.mark.parametrize("seen", ["9" * 5000, "9" * 19, "-1", "1.5", "\u0661", "x"])
async def test_no_last_event_id_takes_a_place_for_ever(path: Path, seen: str) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        for _ in range(READERS + 1):
            reader = api.client.begin("GET", "/events", headers={"last-event-id": seen})
            await settled()
            assert reader.status == 200
            reader.go_away()
            await settled()
