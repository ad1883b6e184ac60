# SPDX-License-Identifier: Apache-2.0
"""The application: each endpoint, each status, in virtual time."""

import logging
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nitrohb import Heartbeat
from nitrohb.api.app import create_app
from nitrohb.api.backend import Backend
from tests.support import Client, PeersWithCids, settled
from tests.test_handout import beat

from .asgi import Exchange, client_of
from .conftest import running
from .test_turns import Passes

PROBLEM = "application/problem+json"


def names(answers: list[dict[str, Any]]) -> list[tuple[str, object]]:
    return [(answer["event"], answer["cid"]) for answer in answers]


async def test_last_heartbeats_are_there_for_all_and_stay(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        await settled()
        assert (await api.client.get("/heartbeats")).json() == []
        for cid in (16, 17, 16):
            await beat(vsock.connect(cid))
        answers = [await api.client.get("/heartbeats") for _ in range(2)]
        for answer in answers:
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
            assert names(answer.json()) == [("heartbeat", 17), ("heartbeat", 16)]
        assert api.backend.server is not None
        last = api.backend.server.last_heartbeats()
        assert answers[0].json() == [each.to_json() for each in last]
        assert names((await api.client.get("/heartbeats/16")).json()) == [("heartbeat", 16)]


@pytest.mark.parametrize(
    ("cid", "detail"), [("18", "no heartbeat of CID 18"), ("x", "'x'"), ("4294967295", "from 0 to")]
)
async def test_a_cid_that_nobody_has_seen(vsock: PeersWithCids, cid: str, detail: str) -> None:
    async with running(vsock) as api:
        await beat(vsock.connect(16))
        assert (await api.client.get(f"/heartbeats/{cid}")).is_problem(404, detail)


async def test_a_claim_before_the_byte(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        claim = api.client.begin("POST", "/claims", {"address": f"unix:{path}"})
        await settled()
        assert not claim.has_begun
        await beat(Client(path))
        await api.client.whole(claim)
        assert claim.status == 200
        assert claim.json() == (await api.client.get("/heartbeats")).json()[0]


async def test_a_claim_after_the_byte_and_only_once(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        await beat(vsock.connect(16))
        claim = await api.client.post("/claims", {"cid": 16, "timeout": 3600, "max_age": 3})
        assert names([claim.json()]) == [("heartbeat", 16)]
        again = api.client.begin("POST", "/claims", {"cid": 16})
        await settled()
        assert not again.has_begun


async def test_a_claim_of_whatever_comes(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await beat(Client(path))
        assert (await api.client.post("/claims", {})).status == 200


@pytest.mark.parametrize(
    ("claim", "seconds"), [({}, 60.0), ({"timeout": 0.5}, 0.5), ({"timeout": 3600}, 3600.0)]
)
async def test_a_claim_whose_time_is_up(
    path: Path, autojump_clock: MockClock, claim: dict[str, Any], seconds: float
) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        began = trio.current_time()
        exchange = api.client.begin("POST", "/claims", claim)
        while not exchange.is_over:
            await trio.sleep(seconds / 4)
        assert exchange.is_problem(504, "no heartbeat came within ")
        assert seconds <= trio.current_time() - began < seconds * 1.6
        counted = (await api.client.get("/metrics")).body
    assert b"nitrohb_claims_in_vain_total 1.0" in counted


async def test_claims_that_end_together_do_not_wake_up_together(
    path: Path, autojump_clock: MockClock
) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        claims = [api.client.begin("POST", "/claims", {"timeout": 1}) for _ in range(50)]
        await trio.sleep(1)
        over = [0]
        for _ in range(21):
            over.append(sum(claim.is_over for claim in claims))
            await trio.sleep(0.01)
        assert over[-1] == 50
        assert max(later - sooner for sooner, later in pairwise(over)) < 20


async def test_the_last_heartbeats_of_many_are_written_down_a_few_at_a_time(
    vsock: PeersWithCids,
) -> None:
    async with running(vsock) as api:
        for cid in range(100, 140):
            await beat(vsock.connect(cid))
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        beats = (await api.client.get("/heartbeats")).json()
        assert [each["cid"] for each in beats] == list(range(100, 140))
        assert names(beats) == [("heartbeat", cid) for cid in range(100, 140)]
        few = passes.count
        await api.client.get("/heartbeats/120")
        assert few > passes.count - few


async def test_a_claim_of_what_is_too_old(path: Path, mock_clock: MockClock) -> None:
    async with running(f"unix:{path}") as api:
        await beat(Client(path))
        mock_clock.jump(60.5)
        claim = api.client.begin("POST", "/claims", {})
        await settled()
        assert not claim.has_begun
        assert (await api.client.post("/claims", {"max_age": 61})).status == 200


async def test_many_claims_are_served_first_come_first_served(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        await settled()
        claims: list[Exchange] = []
        for cid in 50 * [16] + 50 * [17]:
            claims.append(api.client.begin("POST", "/claims", {"cid": cid}))
            await settled()
        order: list[int] = []
        for cid in (17, 16) * 50:
            await beat(vsock.connect(cid))
            await settled()
            order += [n for n, claim in enumerate(claims) if claim.is_over and n not in order]
            assert claims[order[-1]].json()["cid"] == cid
        assert order == [n for pair in zip(range(50, 100), range(50), strict=True) for n in pair]


async def test_who_waits_in_vain_learns_what_came_instead(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    one, other = f"unix:{tmp_path}/1", f"unix:{tmp_path}/2"
    async with running(one, other) as api:
        await beat(Client(tmp_path / "1"))
        await beat(Client(tmp_path / "2"))
        assert (await api.client.post("/claims", {"address": one})).status == 200
        waits = [api.client.begin("POST", "/claims", {"address": at}) for at in (one, other)]
        await settled()
        for number in "112":
            with Client(tmp_path / number) as client:
                client.send(b"\x00")
                await settled()
        Client(tmp_path / "1").close()
        await trio.sleep(61)
        in_vain = waits[0]
        assert in_vain.is_problem(
            504,
            f"no heartbeat on {one} came within 60 s;"
            " connections there meanwhile that brought none: 1 disconnected, 2 wrong-byte;"
            " the last one, of 20",
        )
        assert in_vain.json()["detail"].endswith("Z, is claimed already or more than 60 s old")
        assert waits[1].status == 200


async def test_who_goes_away_while_he_waits_claims_nothing(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        gone = api.client.begin("POST", "/claims", {})
        await settled()
        stays = api.client.begin("POST", "/claims", {})
        await settled()
        gone.go_away()
        await settled()
        assert gone.is_over
        await beat(Client(path))
        await settled()
        assert not gone.has_begun
        assert stays.status == 200


async def test_who_goes_away_at_once_claims_nothing(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        gone = api.client.begin("POST", "/claims", {})
        gone.go_away()
        await settled()
        assert (gone.is_over, gone.has_begun) == (True, False)
        await beat(Client(path))
        assert (await api.client.post("/claims", {})).status == 200


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 16000, "not JSON"),
        (b'{"cid": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"timeout": NaN}', "NaN is no number in JSON"),
        (b'{"max_age": Infinity}', "Infinity is no number in JSON"),
        (b'{"cid": 1, "cid": 2}', "a field is there twice"),
        (b"[]", "not a JSON object"),
        ({"cidd": 1}, "unknown field 'cidd': expected cid, address, timeout, max_age"),
        ({"cid": "16"}, 'cid: expected a number, got "16"'),
        ({"cid": True}, "cid: expected a number, got true"),
        ({"cid": None}, "cid: expected a number, got null"),
        ({"cid": 1.5}, "cid: expected a number, got 1.5"),
        ({"cid": -1}, "cid: expected CIDs from 0 to"),
        ({"cid": 16}, "have no CID: ask by address instead"),
        ({"address": 3}, "address: expected a string, got 3"),
        ({"address": ["x" * 200]}, 'address: expected a string, got ["xxx'),
        ({"address": "nowhere"}, "'nowhere' is not an address"),
        ({"address": "unix:/elsewhere"}, "does not listen on unix:/elsewhere"),
        (b'{"address": "unix:/\\udc80"}', "does not listen on unix:/\udc80"),
        (b'{"address": "unix:/\\ud800"}', "that the file system can encode"),
        ({"timeout": "60"}, 'timeout: expected seconds, got "60"'),
        ({"timeout": False}, "timeout: expected seconds, got false"),
        ({"timeout": 0}, "timeout: expected more than 0 and at most 3600 s, got 0"),
        ({"timeout": 3600.1}, "timeout: expected more than 0"),
        (b'{"timeout": 1e999}', "timeout: expected seconds, got Infinity"),
        ({"timeout": 10**400}, "timeout: expected seconds, got 1000"),
        ({"max_age": -1}, "max_age must be at least 0 s, got -1"),
    ],
)
async def test_a_claim_that_makes_no_sense(path: Path, body: object, detail: str) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        assert (await api.client.post("/claims", body)).is_problem(400, detail)
        await beat(Client(path))
        assert (await api.client.post("/claims", {})).status == 200


async def test_claims_of_a_server_that_ends(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        before = api.client.begin("POST", "/claims", {})
        await settled()
        api.end()
        await settled()
        assert before.is_problem(503, "no heartbeat can come any more")
        assert (await api.client.post("/claims", {})).is_problem(503, "the server has ended")
        assert (await api.client.get("/heartbeats")).json() == []


async def test_rearmed_it_forgets_what_was_not_claimed(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with running(f"unix:{a}", f"unix:{b}") as api:
        for where in (a, b):
            await beat(Client(where))
        answer = await api.client.post("/rearm", {"address": f"unix:{a}"})
        assert (answer.status, answer.body) == (204, b"")
        assert (await api.client.post("/claims", {"address": f"unix:{b}"})).status == 200
        claims = [api.client.begin("POST", "/claims", {}) for _ in range(2)]
        await beat(Client(b))
        await settled()
        assert sorted(claim.has_begun for claim in claims) == [False, True]


async def test_rearmed_all_addresses_forget(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await beat(Client(path))
        assert (await api.client.post("/rearm", {})).status == 204
        claim = api.client.begin("POST", "/claims", {})
        await settled()
        assert not claim.has_begun


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not JSON"),
        ({"address": None}, "address: expected a string, got null"),
        ({"address": "unix:/elsewhere"}, "does not listen on unix:/elsewhere"),
        ({"cid": 16}, "unknown field 'cid': expected address"),
    ],
)
async def test_what_cannot_be_rearmed(path: Path, body: object, detail: str) -> None:
    async with running(f"unix:{path}") as api:
        await settled()
        assert (await api.client.post("/rearm", body)).is_problem(400, detail)


async def test_a_one_shot_address_is_done_and_nothing_is_ready_any_more(path: Path) -> None:
    async with running(f"unix:{path}", once=True) as api:
        await settled()
        ready = await api.client.get("/readyz")
        assert ready.status == 200
        assert ready.json() == {"listeners": [{"address": f"unix:{path}", "listening": True}]}
        await beat(Client(path))
        done = await api.client.get("/readyz")
        assert done.is_problem(503, "not every address listens")
        assert done.json()["listeners"] == [{"address": f"unix:{path}", "listening": False}]
        assert (await api.client.post("/rearm", {})).is_problem(400, "cannot be rearmed")
        assert (await api.client.post("/claims", {})).status == 200
        assert (await api.client.post("/claims", {})).is_problem(503, "any more: the")


async def test_an_address_whose_socket_file_is_lost_is_not_ready(path: Path) -> None:
    path = path.with_name("vms") / "hb"
    path.parent.mkdir()
    async with running(f"unix:{path}") as api:
        await settled()
        shutil.rmtree(path.parent)
        await settled()
        assert (await api.client.get("/readyz")).is_problem(503, "not every address listens")
        path.parent.mkdir()
        await trio.sleep(0.6)
        assert (await api.client.get("/readyz")).status == 200
        answer = await api.client.get("/metrics")
        assert f'nitrohb_losses_total{{address="unix:{path}"}} 1.0\n'.encode() in answer.body


@pytest.mark.parametrize(
    ("claim", "is_named"),
    [
        ({"cid": 16}, True),
        ({"cid": 16, "address": "vsock:3:9000"}, True),
        ({"cid": 16, "max_age": 0}, False),
        ({"cid": 1, "max_age": 0}, False),
        ({"max_age": 0}, False),
    ],
)
async def test_who_waits_in_vain_learns_that_the_loopback_hides_cids(
    vsock: PeersWithCids, autojump_clock: MockClock, claim: dict[str, Any], is_named: bool
) -> None:
    async with running(vsock) as api:
        await beat(vsock.connect(17))
        await beat(vsock.connect(1))
        await trio.sleep(1)
        exchange = api.client.begin("POST", "/claims", claim | {"timeout": 5})
        await trio.sleep(6)
        assert exchange.is_problem(504, "no heartbeat")
        assert " came within 5 s" in exchange.json()["detail"]
        assert ("forward-cid=1" in exchange.json()["detail"]) == is_named


async def test_a_claim_by_cid_is_known_while_it_waits(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        for claim, is_known in (({}, False), ({"cid": 1}, False), ({"cid": 16}, True)):
            exchange = api.client.begin("POST", "/claims", claim)
            await settled()
            assert api.backend.awaits_cid() == is_known
            exchange.go_away()
            await settled()
            assert not api.backend.awaits_cid()


async def test_before_the_server_has_started() -> None:
    async with client_of(create_app(Backend([]))) as client:
        assert (await client.get("/readyz")).is_problem(503, "not every address listens")
        assert (await client.post("/claims", {})).is_problem(503, "has not started")
        assert (await client.post("/rearm", {})).is_problem(503, "has not started")
        assert (await client.get("/heartbeats")).json() == []
        health = await client.get("/healthz")
        assert (health.status, health.body) == (200, b"ok")


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/nothing", 404, "no such thing"),
        ("GET", "/heartbeats/", 404, "no such thing"),
        ("GET", "/claims", 405, "GET is not for /claims"),
        ("DELETE", "/heartbeats", 405, "DELETE is not for /heartbeats"),
    ],
)
async def test_what_is_not_there(method: str, path: str, status: int, detail: str) -> None:
    async with client_of(create_app(Backend([]))) as client:
        answer = await client.whole(client.begin(method, path))
        assert answer.is_problem(status, detail)
        assert ("allow" in answer.headers) == (status == 405)


async def test_a_bug_is_told_of_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Backend) -> list[Heartbeat]:
        raise ZeroDivisionError

    exchanges: list[Exchange] = []
    monkeypatch.setattr(Backend, "last_heartbeats", fail)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with client_of(create_app(Backend([]))) as client:
            exchanges.append(client.begin("GET", "/heartbeats"))
            await settled()
    assert exchanges[0].is_problem(500, "a bug in nitrohb")
    assert caplog.record_tuples == [("nitrohb.api.app", logging.ERROR, "GET /heartbeats")]


async def test_every_response_has_the_headers_that_keep_browsers_from_being_used() -> None:
    async with client_of(create_app(Backend([]))) as client:
        for path in ("/healthz", "/nothing"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["cache-control"] == "no-store"


async def test_metrics(path: Path) -> None:
    async with running(f"unix:{path}") as api:
        await beat(Client(path))
        answer = await api.client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert f'nitrohb_heartbeats_total{{address="unix:{path}"}} 1.0\n'.encode() in answer.body
