# SPDX-License-Identifier: Apache-2.0
"""The application: each endpoint, each status, in virtual time."""

import base64
import hashlib
import logging
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nitrohb import Heartbeat
from nitrohb.api.app import create_app
from nitrohb.api.state import ServerState
from tests.support import Client, PeersWithCids, settled

from .support import Exchange, Passes, beat, client_of, running


async def test_last_heartbeats_can_be_read_again_and_again(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        assert (await api.client.get("/heartbeats")).json() == []
        for cid in (16, 17, 16):
            await beat(vsock.connect(cid))
        assert api.state.server is not None
        last = [each.to_json() for each in api.state.server.last_heartbeats()]
        assert [each["cid"] for each in last] == [17, 16]
        for _ in range(2):
            answer = await api.client.get("/heartbeats")
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json() == last
        assert (await api.client.get("/heartbeats/16")).json() == last[1:]
        for unseen in ("18", "x", "016", "4294967295", "None"):
            assert (await api.client.get(f"/heartbeats/{unseen}")).is_problem(404, unseen)


async def test_a_claim_before_the_heartbeat(path: Path) -> None:
    async with running(path) as api:
        claim = api.client.begin("POST", "/claims", {"address": f"unix:{path}"})
        await settled()
        assert not claim.has_begun
        await beat(path)
        await api.client.whole(claim)
        assert claim.status == 200
        assert [claim.json()] == (await api.client.get("/heartbeats")).json()


async def test_a_claim_after_the_heartbeat_and_only_once(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        await beat(vsock.connect(16))
        claim = await api.client.post("/claims", {"cid": 16, "timeout": 3600, "max_age": 3})
        assert (claim.json()["event"], claim.json()["cid"]) == ("heartbeat", 16)
        again = api.client.begin("POST", "/claims", {"cid": 16})
        await settled()
        assert not again.has_begun


async def test_a_claim_times_out(path: Path, clock: MockClock) -> None:
    async with running(path) as api:
        for claim, seconds in (({}, 60.0), ({"timeout": 0.5}, 0.5), ({"timeout": 3600}, 3600.0)):
            began = trio.current_time()
            exchange = api.client.begin("POST", "/claims", claim)
            while not exchange.is_over:
                await trio.sleep(seconds / 4)
            assert exchange.is_problem(504, f"{seconds:g} s")
            assert seconds <= trio.current_time() - began < seconds * 1.6
        counted = (await api.client.get("/metrics")).body
    assert b"nitrohb_claim_timeouts_total 3.0" in counted


async def test_claims_that_time_out_together_do_not_wake_up_together(
    path: Path, clock: MockClock
) -> None:
    async with running(path) as api:
        claims = [api.client.begin("POST", "/claims", {"timeout": 1}) for _ in range(50)]
        await trio.sleep(1)
        over = [0]
        for _ in range(21):
            over.append(sum(claim.is_over for claim in claims))
            await trio.sleep(0.01)
        assert over[-1] == 50
        assert max(later - sooner for sooner, later in pairwise(over)) < 20


async def test_many_heartbeats_are_serialized_a_few_at_a_time(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        for cid in range(100, 140):
            await beat(vsock.connect(cid))
        passes = Passes()
        trio.lowlevel.add_instrument(passes)
        beats = (await api.client.get("/heartbeats")).json()
        assert [each["cid"] for each in beats] == list(range(100, 140))
        few = passes.count
        await api.client.get("/heartbeats/120")
        assert few > passes.count - few


async def test_a_heartbeat_that_is_too_old_is_not_claimed(
    path: Path, mock_clock: MockClock
) -> None:
    async with running(path) as api:
        await beat(path)
        mock_clock.jump(60.5)
        claim = api.client.begin("POST", "/claims", {})
        await settled()
        assert not claim.has_begun
        assert (await api.client.post("/claims", {"max_age": 61})).status == 200


async def test_claims_are_served_first_come_first_served(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        claims: list[Exchange] = []
        for cid in 10 * [16] + 10 * [17]:
            claims.append(api.client.begin("POST", "/claims", {"cid": cid}))
            await settled()
        order: list[int] = []
        for cid in (17, 16) * 10:
            await beat(vsock.connect(cid))
            order += [n for n, claim in enumerate(claims) if claim.is_over and n not in order]
            assert claims[order[-1]].json()["cid"] == cid
        assert order == [n for pair in zip(range(10, 20), range(10), strict=True) for n in pair]


async def test_a_timed_out_claim_reports_what_came_instead(
    tmp_path: Path, clock: MockClock
) -> None:
    one, other = tmp_path / "1", tmp_path / "2"
    async with running(one, other) as api:
        await beat(one)
        await beat(other)
        assert (await api.client.post("/claims", {"address": f"unix:{one}"})).status == 200
        missed, served = (
            api.client.begin("POST", "/claims", {"address": f"unix:{it}"}) for it in (one, other)
        )
        await settled()
        for where in (one, one, other):
            with Client(where) as client:
                client.send(b"\x00")
                await settled()
        Client(one).close()
        await trio.sleep(61)
        facts = (f"on unix:{one} ", "60 s", "1 closed", "2 sent 0x00 ", "1 sent a heart")
        assert missed.is_problem(504, *facts)
        assert served.status == 200


@pytest.mark.parametrize("settles", [True, False])
async def test_a_client_that_disconnects_claims_nothing(path: Path, settles: bool) -> None:
    async with running(path) as api:
        gone = api.client.begin("POST", "/claims", {})
        if settles:
            await settled()
        stays = api.client.begin("POST", "/claims", {})
        gone.disconnect()
        await settled()
        assert gone.is_over
        await beat(path)
        assert stays.status == 200


async def test_a_wrong_claim_is_refused_and_claims_nothing(path: Path) -> None:
    wrong: list[tuple[str, object, tuple[str, ...]]] = [
        ("/claims", b"", ("JSON",)),
        ("/claims", {"cid": -1}, ("cid", "from 0")),
        ("/claims", {"cid": 16}, ("no CID", "address")),
        ("/claims", {"address": "nowhere"}, ("'nowhere'",)),
        ("/claims", {"address": "unix:/elsewhere"}, ("unix:/elsewhere",)),
        ("/claims", b'{"address": "unix:/\\udc80"}', ("unix:/\udc80",)),
        ("/claims", b'{"address": "unix:/\\ud800"}', ("file system",)),
        ("/claims", {"max_age": -1}, ("max_age", "0 s", "-1")),
        ("/rearm", b"", ("JSON",)),
        ("/rearm", {"address": None}, ("null",)),
        ("/rearm", {"address": "unix:/elsewhere"}, ("unix:/elsewhere",)),
        ("/rearm", {"cid": 16}, ("'cid'",)),
    ]
    async with running(path) as api:
        await beat(path)
        for where, body, facts in wrong:
            assert (await api.client.post(where, body)).is_problem(400, *facts), (where, body)
        assert (await api.client.post("/claims", {})).status == 200


async def test_claims_of_a_server_that_ends(path: Path) -> None:
    async with running(path) as api:
        before = api.client.begin("POST", "/claims", {})
        await settled()
        api.end()
        await settled()
        assert before.is_problem(503)
        assert (await api.client.post("/claims", {})).is_problem(503)
        assert (await api.client.get("/heartbeats")).json() == []


async def test_rearm_drops_unclaimed_heartbeats(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with running(a, b) as api:
        await beat(a)
        await beat(b)
        answer = await api.client.post("/rearm", {"address": f"unix:{a}"})
        assert (answer.status, answer.body) == (204, b"")
        assert (await api.client.post("/claims", {"address": f"unix:{b}"})).status == 200
        claims = [api.client.begin("POST", "/claims", {}) for _ in range(2)]
        await beat(b)
        assert sorted(claim.has_begun for claim in claims) == [False, True]
        for where in (a, b):
            await beat(where)
        assert (await api.client.post("/rearm", {})).status == 204
        claim = api.client.begin("POST", "/claims", {})
        await settled()
        assert not claim.has_begun


async def test_a_one_shot_address_is_not_ready_after_its_heartbeat(path: Path) -> None:
    async with running(path, keep=False) as api:
        ready = await api.client.get("/readyz")
        assert ready.status == 200
        assert ready.json() == {"listeners": [{"address": f"unix:{path}", "listening": True}]}
        await beat(path)
        done = await api.client.get("/readyz")
        assert done.is_problem(503)
        assert done.json()["listeners"] == [{"address": f"unix:{path}", "listening": False}]
        assert (await api.client.post("/rearm", {})).is_problem(400, "rearm")
        assert (await api.client.post("/claims", {})).status == 200
        assert (await api.client.post("/claims", {})).is_problem(503)


async def test_an_address_whose_socket_file_is_lost_is_not_ready(
    path: Path, clock: MockClock
) -> None:
    path = path.with_name("vms") / "hb"
    path.parent.mkdir()
    async with running(path) as api:
        await beat(path)
        shutil.rmtree(path.parent)
        await trio.sleep(0.6)
        assert (await api.client.get("/readyz")).is_problem(503)
        path.parent.mkdir()
        await trio.sleep(0.6)
        assert (await api.client.get("/readyz")).status == 200
        answer = await api.client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert (
            f'nitrohb_socket_file_losses_total{{address="unix:{path}"}} 1.0\n'.encode()
            in answer.body
        )
        assert f'nitrohb_heartbeats_total{{address="unix:{path}"}} 1.0\n'.encode() in answer.body


async def test_a_timed_out_claim_reports_that_the_loopback_hides_cids(
    vsock: PeersWithCids, clock: MockClock
) -> None:
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"cid": 16}, True),
        ({"cid": 16, "address": "vsock:3:9000"}, True),
        ({"cid": 16, "max_age": 0}, False),
        ({"cid": 1, "max_age": 0}, False),
        ({"max_age": 0}, False),
    ]
    async with running(vsock) as api:
        await beat(vsock.connect(17))
        await beat(vsock.connect(1))
        await trio.sleep(1)
        claims = [api.client.begin("POST", "/claims", it | {"timeout": 5}) for it, _ in cases]
        await trio.sleep(6)
        for (claim, is_named), exchange in zip(cases, claims, strict=True):
            assert exchange.is_problem(504, "5 s"), claim
            assert ("forward-cid=1" in exchange.json()["detail"]) == is_named, claim


async def test_a_claim_by_cid_is_known_while_it_waits(vsock: PeersWithCids) -> None:
    async with running(vsock) as api:
        for claim, is_known in (({}, False), ({"cid": 1}, False), ({"cid": 16}, True)):
            exchange = api.client.begin("POST", "/claims", claim)
            await settled()
            assert api.state.awaits_cid() == is_known
            exchange.disconnect()
            await settled()
            assert not api.state.awaits_cid()


async def test_before_the_server_has_started() -> None:
    async with client_of(create_app(ServerState([]))) as client:
        assert (await client.get("/readyz")).is_problem(503)
        assert (await client.post("/claims", {})).is_problem(503)
        assert (await client.post("/rearm", {})).is_problem(503)
        assert (await client.get("/heartbeats")).json() == []
        health = await client.get("/healthz")
        assert (health.status, health.body) == (200, b"ok")


async def test_unknown_paths_and_headers_that_restrict_browsers() -> None:
    async with client_of(create_app(ServerState([]))) as client:
        for method, path, status in (
            ("GET", "/healthz", 200),
            ("GET", "/nothing", 404),
            ("GET", "/heartbeats/", 404),
            ("GET", "/claims", 405),
            ("DELETE", "/heartbeats", 405),
        ):
            answer = await client.whole(client.begin(method, path))
            assert status == answer.status == 200 or answer.is_problem(status, method, path)
            assert ("allow" in answer.headers) == (status == 405)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert answer.headers["cache-control"] == "no-store"


async def test_a_bug_is_reported_to_the_client_and_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: ServerState) -> list[Heartbeat]:
        raise ZeroDivisionError

    exchanges: list[Exchange] = []
    monkeypatch.setattr(ServerState, "last_heartbeats", fail)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with client_of(create_app(ServerState([]))) as client:
            exchanges.append(client.begin("GET", "/heartbeats"))
            await settled()
    assert exchanges[0].is_problem(500, "bug", "stderr")
    assert caplog.record_tuples == [
        ("nitrohb.api.app", logging.ERROR, "nitrohb: cannot answer GET /heartbeats")
    ]


async def test_claims_have_a_limit_in_number(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nitrohb.api.requests.MAX_CONNECTIONS", 16)
    async with running(path) as api:
        waiting = [api.client.begin("POST", "/claims", {}) for _ in range(8)]
        await settled()
        refused = await api.client.post("/claims", {})
        assert refused.is_problem(503, "8 ")
        assert refused.headers["connection"] == "close"
        assert (await api.client.get("/healthz")).status == 200
        await beat(path)
        assert [claim.status for claim in waiting if claim.has_begun] == [200]
        again = api.client.begin("POST", "/claims", {})
        await settled()
        assert not again.has_begun


async def test_readers_of_events_have_a_limit_in_number(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nitrohb.api.requests.MAX_CONNECTIONS", 16)
    async with running(path) as api:
        readers = [api.client.begin("GET", "/events") for _ in range(4)]
        await settled()
        assert (await api.client.get("/events")).is_problem(503, "4 ")
        readers[0].disconnect()
        await settled()
        # Whatever a client says it has seen last, another client can read afterwards.
        for seen in ("9" * 4000, "9" * 19, "-1", "1.5", "\u0661", "x", ""):
            reader = api.client.begin("GET", "/events", headers={"last-event-id": seen})
            await settled()
            assert reader.status == 200, seen
            reader.disconnect()
            await settled()


async def test_only_the_scripts_of_the_page_run_in_it() -> None:
    async with client_of(create_app(ServerState([]))) as client:
        page = await client.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    text = page.body.decode()
    rules = page.headers["content-security-policy"].split("; ")
    policy = dict(rule.split(" ", 1) for rule in rules)
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    # It needs nothing from anywhere else.
    assert not re.search(r"https?:|//[a-z]|<(?:script|style|a|img)[^>]* (?:src|on\w+)=", text)
    assert set(re.findall(r'href="([^"]*)"', text)) == {"data:,", "heartbeats", "readyz"}
    assert "innerHTML" not in text
