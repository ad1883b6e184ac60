# SPDX-License-Identifier: Apache-2.0
"""The interface as an OpenAPI 3.1 document, of the server that runs: with its own addresses."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final, get_args

from .. import __version__
from ..addresses import CID_ANY, Address, InheritedSocket, VsockAddress
from ..events import Event
from .guard import BODY_LIMIT, BODY_TIMEOUT
from .inputs import LONGEST, Claim
from .problems import MEDIA_TYPE

__all__ = ["create_document"]

Json = dict[str, Any]

_OF_ALL: Final = {
    HTTPStatus.MISDIRECTED_REQUEST: "On TCP: the Host header is no name of this server.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "A bug; its traceback is on the server's stderr.",
}
_OF_POSTS: Final = {
    HTTPStatus.BAD_REQUEST: "The body makes no sense here; the detail says why.",
    HTTPStatus.FORBIDDEN: "The Origin header is that of another site.",
    HTTPStatus.REQUEST_TIMEOUT: f"The body did not come within {BODY_TIMEOUT:g} s.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"The body has more than {BODY_LIMIT} bytes.",
    HTTPStatus.SERVICE_UNAVAILABLE: "The server has not started yet, or has ended.",
}

_CID: Final[Json] = {"type": "integer", "minimum": 0, "maximum": CID_ANY - 1}
_CID_OR_NULL: Final[Json] = {
    "type": ["integer", "null"],
    "description": "Null on a Unix socket.",
}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_SECONDS: Final[Json] = {"type": "number", "minimum": 0}
_EXAMPLE: Final[Json] = {
    "event": "heartbeat",
    "time": "2026-11-22T21:05:08.205114Z",
    "address": "vsock::9000",
    "cid": 16,
    "peer": "vsock:16:1023",
    "byte": 0xB7,
    "listening_seconds": 2.5,
    "echo_seconds": 0.0002,
    "echoed": True,
}


def create_document(addresses: Iterable[Address]) -> Json:
    """Describe the interface.

    Args:
        addresses: Where the server listens for heartbeats.
    """
    listen = list(addresses)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nitrohb",
            "version": __version__,
            "summary": "The heartbeats of AWS Nitro Enclaves: what was seen, and whose it is.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {"schemas": _schemas(listen)},
    }


def _paths() -> Json:
    return {
        "/heartbeats": {
            "get": _operation(
                "lastHeartbeats",
                "The last heartbeat of every enclave, the oldest first. Claims nothing.",
                _ok("application/json", _list_of("Heartbeat")),
            )
        },
        "/heartbeats/{cid}": {
            "parameters": [
                {
                    "name": "cid",
                    "in": "path",
                    "required": True,
                    "description": "The CID of an enclave.",
                    "schema": _CID,
                }
            ],
            "get": _operation(
                "lastHeartbeatsOfEnclave",
                "The last heartbeats of one enclave: one for each address. Claims nothing.",
                _ok("application/json", _list_of("Heartbeat") | {"minItems": 1}),
                {HTTPStatus.NOT_FOUND: "No heartbeat of this CID has been seen."},
            ),
        },
        "/claims": {
            "post": _operation(
                "claimHeartbeat",
                "Wait for a heartbeat that nobody has claimed yet, and claim it.",
                _ok("application/json", _ref("Heartbeat")),
                {
                    **_OF_POSTS,
                    HTTPStatus.GATEWAY_TIMEOUT: "No such heartbeat came in time.",
                },
                body="Claim",
            )
        },
        "/rearm": {
            "post": _operation(
                "rearm",
                "Begin anew on an address, as a device does when its machine is reset.",
                {"204": {"description": "It has begun anew."}},
                _OF_POSTS,
                body="Rearm",
            )
        },
        "/events": {
            "get": _operation(
                "followEvents",
                "What happens, as server-sent events: its name, its JSON, and a number that counts"
                " up. The stream has no end.",
                # OpenAPI 3.1 does not say how to describe a stream. Programs that read descriptions
                # take the schema for that of each event.
                _ok("text/event-stream", _ref("ServerSentEvent")),
                {HTTPStatus.SERVICE_UNAVAILABLE: "As many as may read events do so already."},
                parameters=[_LAST_EVENT_ID],
            )
        },
        "/healthz": {
            "get": _operation(
                "isAlive",
                "Whether the server's loop turns.",
                _ok("text/plain", {"type": "string", "const": "ok"}),
            )
        },
        "/readyz": {
            "get": _operation(
                "isReady",
                "Whether every address listens.",
                _ok("application/json", _ref("Readiness"))
                | {
                    "503": _response(
                        "Not every address listens.",
                        MEDIA_TYPE,
                        {"allOf": [_ref("Problem"), _ref("Readiness")]},
                    )
                },
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "What the server has done so far, in Prometheus' text format.",
                _ok("text/plain", {"type": "string"}),
            )
        },
        "/openapi.json": {
            "get": _operation(
                "describe", "This document.", _ok("application/json", {"type": "object"})
            )
        },
        "/": {
            "get": _operation(
                "page",
                "A page that shows listeners and enclaves, live.",
                _ok("text/html", {"type": "string"}),
            )
        },
    }


_LAST_EVENT_ID: Final[Json] = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The number of the last event that was seen: the stream begins after it.",
    "schema": {"type": "string"},
}


def _operation(
    name: str,
    summary: str,
    responses: Json,
    problems: dict[HTTPStatus, str] | None = None,
    *,
    parameters: list[Json] | None = None,
    body: str | None = None,
) -> Json:
    failed = {
        str(status.value): _response(why, MEDIA_TYPE, _ref("Problem"))
        for status, why in sorted(((problems or {}) | _OF_ALL).items())
    }
    operation: Json = {"operationId": name, "summary": summary, "responses": responses | failed}
    if parameters:
        operation["parameters"] = parameters
    if body:
        content = {"application/json": {"schema": _ref(body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _ok(media_type: str, schema: Json) -> Json:
    return {"200": _response("Here it is.", media_type, schema)}


def _response(description: str, media_type: str, schema: Json) -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(name: str) -> Json:
    return {"type": "array", "items": _ref(name)}


def _schemas(addresses: list[Address]) -> Json:
    address = {"type": "string", "enum": [str(address) for address in addresses]}
    has_cids = any(isinstance(at, VsockAddress | InheritedSocket) for at in addresses)
    return {
        "Heartbeat": _object(
            {
                "event": {"const": "heartbeat"},
                "time": _TIME | {"description": "When the byte came, in UTC."},
                "address": address | {"description": "The listen address that it came in on."},
                "cid": _CID_OR_NULL,
                "peer": {"type": ["string", "null"], "description": "Null on a Unix socket."},
                "byte": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 255,
                    "description": "183 (0xB7), unless the server takes any byte.",
                },
                "listening_seconds": _SECONDS
                | {"description": "From the moment at which the address began to listen."},
                "echo_seconds": _SECONDS | {"description": "From the connection to the echo."},
                "echoed": {
                    "type": "boolean",
                    "description": "False if the enclave had gone before its echo.",
                },
            }
        )
        | {"examples": [_EXAMPLE]},
        "ServerSentEvent": _object(
            {
                "id": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                "event": {"enum": [event.name for event in get_args(Event)]},
                "data": {
                    "type": "string",
                    "contentMediaType": "application/json",
                    "contentSchema": _ref("Event"),
                },
            }
        ),
        "Event": {
            "type": "object",
            "description": "What each has; an event has further properties of its own.",
            "required": ["event", "time", "address", "cid"],
            "properties": {
                "event": {"enum": [event.name for event in get_args(Event)]},
                "time": _TIME,
                "address": address,
                "cid": _CID_OR_NULL,
            },
        },
        "Claim": _object(_claim(address, has_cids), ()) | _examples(address),
        "Rearm": _object({"address": address | {"description": "Default: all of them."}}, ())
        | _examples(address),
        "Readiness": {
            "type": "object",
            "required": ["listeners"],
            "properties": {
                "listeners": {
                    "type": "array",
                    "items": _object({"address": address, "listening": {"type": "boolean"}}),
                }
            },
        },
        "Problem": {
            "type": "object",
            "description": "RFC 9457.",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
            },
        },
    }


def _examples(address: Json) -> Json:
    return {"examples": [{"address": text} for text in address["enum"][:1]]}


def _claim(address: Json, has_cids: bool) -> Json:
    cid = {"cid": _CID | {"description": "Of the enclave with this CID. Default: of any."}}
    return (cid if has_cids else {}) | {
        "address": address | {"description": "That came in on this address. Default: on any."},
        "timeout": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": LONGEST,
            "default": Claim().timeout,
            "description": "Seconds to wait.",
        },
        "max_age": _SECONDS
        | {"default": Claim().max_age, "description": "Seconds since it came, at the most."},
    }


def _object(properties: Json, required: Iterable[str] | None = None) -> Json:
    """An object with these properties and no others; all are required if it is not said which."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
