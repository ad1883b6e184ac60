# SPDX-License-Identifier: Apache-2.0
"""Clients of the interface add and remove the addresses of the server."""

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from nitrohb.api.app import create_app
from nitrohb.api.state import ServerState
from tests.support import Client as Enclave
from tests.support import settled

from .support import Exchange, Running, beat, client_of, running
from .test_schema import check


async def delete(api: Running, address: str) -> Exchange:
    path = f"/listeners/{quote(os.fsencode(address), safe='')}"
    return await api.client.whole(api.client.begin("DELETE", path))


async def test_an_address_comes_and_goes(tmp_path: Path, path: Path) -> None:
    address = f"unix:{tmp_path}/odd x=%2f#\udc80"
    async with running(path) as api:
        added = await api.client.post("/listeners", {"address": address})
        assert (added.status, added.json()) == (201, {"address": address, "listening": True})
        document = (await api.client.get("/openapi.json")).json()
        check(added.json(), "Listener", document)
        check({"address": address}, "Claim", document)
        ready = (await api.client.get("/readyz")).json()["listeners"]
        assert [each["address"] for each in ready] == [f"unix:{path}", address]
        await beat(Path(address.removeprefix("unix:")))
        with Enclave(address.removeprefix("unix:")) as silent:
            await settled()
            silent.send(b"x")
            await settled()
        claim = api.client.begin("POST", "/claims", {"address": address, "max_age": 0})
        await settled()
        gone = await delete(api, address)
        assert (gone.status, gone.body) == (204, b"")
        await settled()
        assert claim.is_problem(410, "was removed")
        assert (await delete(api, address)).is_problem(404, "does not listen")
        assert (await api.client.post("/claims", {"address": address})).is_problem(400)
        assert len((await api.client.get("/readyz")).json()["listeners"]) == 1
        assert (await api.client.get("/heartbeats")).json() == []
        metrics = (await api.client.get("/metrics")).body.decode()
        assert "odd" not in metrics
        assert f'nitrohb_heartbeats_total{{address="unix:{path}"}} 0.0' in metrics
        assert "nitrohb_connections_total 2.0" in metrics
        assert "nitrohb_pending 0.0" in metrics


async def test_what_cannot_be_added(tmp_path: Path, path: Path) -> None:
    later = f"hybrid:{tmp_path}/later/v.sock:9000"
    async with running(path) as api:
        for body, status, facts in [
            ({}, 400, ("address", "missing")),
            ({"address": 1}, 400, ("a string",)),
            ({"address": "unix:x"}, 400, ("absolute path",)),
            ({"address": "hybrid:vm4:9000"}, 400, ("absolute path",)),
            ({"address": "fd:3"}, 400, ("descriptor",)),
            ({"address": "fd:api"}, 400, ("descriptor",)),
            ({"address": "hybrid:/run/*:9000"}, 400, ("pattern",)),
            ({"address": "vsock::4294967295"}, 400, ("lets the kernel choose",)),
            ({"address": "unix:/x", "mode": 0}, 400, ("'mode'",)),
            ({"address": f"unix:{path}"}, 409, ("already",)),
            ({"address": later}, 409, ("does not exist", later)),
        ]:
            answer = await api.client.post("/listeners", body)
            assert answer.is_problem(status, *facts), body
        assert (
            [*api.state.listening] == [*api.state.server.addresses] if api.state.server else False
        )
        (tmp_path / "later").mkdir()
        assert (await api.client.post("/listeners", {"address": later})).status == 201
        page = {"origin": "https://evil.example"}
        for method, where in (("POST", "/listeners"), ("DELETE", f"/listeners/{later}")):
            refused = await api.client.whole(api.client.begin(method, where, {}, page))
            assert refused.is_problem(403, "evil")
        assert (await api.client.get("/listeners")).is_problem(405)


async def test_a_server_can_have_no_address(path: Path) -> None:
    async with running(path) as api:
        assert (await delete(api, f"unix:{path}")).status == 204
        ready = await api.client.get("/readyz")
        assert (ready.status, ready.json()) == (200, {"listeners": []})
        assert (await api.client.post("/claims", {})).is_problem(503, "has no address")


async def test_over_tcp_it_is_refused(tmp_path: Path) -> None:
    async with client_of(create_app(ServerState([]), is_host=lambda _: True)) as client:
        for method, where in (("POST", "/listeners"), ("DELETE", "/listeners/vsock::9000")):
            body = {"address": f"unix:{tmp_path}/x"}
            answer = await client.whole(client.begin(method, where, body))
            assert answer.is_problem(403, "over TCP")
        assert "/listeners" not in json.dumps((await client.get("/openapi.json")).json())


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_before_the_server_has_started(method: str) -> None:
    async with client_of(create_app(ServerState([]))) as client:
        where = {"POST": "/listeners", "DELETE": "/listeners/unix:%2Fx"}[method]
        answer = await client.whole(client.begin(method, where, {"address": "unix:/x"}))
        assert answer.is_problem(503, "not started")
