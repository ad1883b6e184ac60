# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document says what the application does."""

from pathlib import Path
from typing import Any, get_args

import jsonschema
import openapi_spec_validator
import pytest

import nitrohb
from nitrohb import Event, InheritedSocket, UnixAddress, VsockAddress
from nitrohb.addresses import CID_ANY
from nitrohb.api.app import create_app
from nitrohb.api.requests import BODY_LIMIT, BODY_TIMEOUT, MAX_TIMEOUT, MEDIA_TYPE, Claim
from nitrohb.api.schema import create_document
from nitrohb.api.state import ServerState
from tests.support import PeersWithCids

from .support import beat, client_of, running

HERE = (UnixAddress("/run/x"), VsockAddress(3, 9000))
DOCUMENT = create_document(HERE)


def check(content: object, name: str, document: Any = DOCUMENT) -> None:
    """Raise an error if some content does not fit a schema of the document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.validate(content, schema)


def test_it_is_openapi() -> None:
    for addresses in ((), HERE, HERE[:1]):
        openapi_spec_validator.validate(create_document(addresses))


def test_it_has_the_endpoints_of_the_application() -> None:
    routes = vars(create_app(ServerState([])))["_app"].routes
    served = {it.path.replace(":path", ""): set(it.methods or ()) - {"HEAD"} for it in routes}
    paths: dict[str, dict[str, object]] = DOCUMENT["paths"]
    named = {path: {m.upper() for m in item} - {"PARAMETERS"} for path, item in paths.items()}
    assert named == served


def test_its_constants_are_those_of_the_code() -> None:
    schemas, responses = DOCUMENT["components"]["schemas"], DOCUMENT["components"]["responses"]
    assert DOCUMENT["info"]["version"] == nitrohb.__version__
    claim, (cid,) = (
        schemas["Claim"]["properties"],
        DOCUMENT["paths"]["/heartbeats/{cid}"]["parameters"],
    )
    assert claim["cid"]["maximum"] == cid["schema"]["maximum"] == CID_ANY - 1
    assert claim["timeout"]["maximum"] == MAX_TIMEOUT
    assert (claim["timeout"]["default"], claim["max_age"]["default"]) == (
        Claim().timeout,
        Claim().max_age,
    )
    assert schemas["EventName"]["enum"] == [event.name for event in get_args(Event)]
    assert f" {BODY_TIMEOUT:g} s" in responses["BodyTimeout"]["description"]
    assert f" {BODY_LIMIT} bytes" in responses["BodyTooLarge"]["description"]
    for response in responses.values():
        assert [*response["content"]] == [MEDIA_TYPE]


def test_every_request_can_come_from_elsewhere_or_meet_a_bug() -> None:
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            if "responses" in operation:
                assert {"403", "421", "500"} <= operation["responses"].keys()


async def test_its_paths_exist() -> None:
    async with client_of(create_app(ServerState([]))) as client:
        for path, item in DOCUMENT["paths"].items():
            answer = await client.whole(
                client.begin("HEAD", path.format(cid=16, address="vsock::1"))
            )
            is_get = "get" in item and path != "/heartbeats/{cid}"
            ok = {"/readyz": 503}.get(path, 200)
            unseen = {"/heartbeats/{cid}": 404}.get(path, 405)
            assert answer.status == (ok if is_get else unseen), path


async def test_the_server_describes_itself_and_its_answers(
    path: Path, vsock: PeersWithCids
) -> None:
    async with running(path, vsock) as api:
        answer = await api.client.get("/openapi.json")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        document = answer.json()
        check((await api.client.get("/readyz")).json(), "Readiness", document)
        await beat(path)
        await beat(vsock.connect(16))
        beats = (await api.client.get("/heartbeats")).json()
        assert len(beats) == 2
        for each in beats:
            check(each, "Heartbeat", document)
            check(each, "Event", document)
            check({"address": each["address"], "timeout": 3600, "max_age": 0}, "Claim", document)


async def test_a_server_that_has_not_started_answers_as_described() -> None:
    async with client_of(create_app(ServerState(HERE))) as client:
        answer = await client.get("/readyz")
    assert answer.status == 503
    check(answer.json(), "Readiness")
    check(answer.json(), "Problem")


def test_a_claim_by_cid_is_only_for_peers_that_have_one() -> None:
    check({"cid": 16}, "Claim")
    check({"cid": 16}, "Claim", create_document([InheritedSocket(3)]))
    with pytest.raises(jsonschema.ValidationError, match="'cid' was unexpected"):
        check({"cid": 16}, "Claim", create_document(HERE[:1]))


def test_it_refuses_what_the_application_refuses() -> None:
    wrong: list[tuple[str, object]] = [
        ("Claim", {"timeout": 0}),
        ("Claim", {"timeout": 3600.5}),
        ("Claim", {"cid": 2**32 - 1}),
        ("Claim", {"max_age": -1}),
        ("Claim", {"cidd": 1}),
        ("Rearm", {"address": "unix:/elsewhere"}),
        ("Heartbeat", {}),
    ]
    for name, content in wrong:
        with pytest.raises(jsonschema.ValidationError):
            check(content, name)
