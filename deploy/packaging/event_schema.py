# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of the events, from their classes."""

import dataclasses
import inspect
import re
from typing import Any, Final, get_args, get_type_hints

from nitrohb import CID_ANY, Event, RejectReason, UnixPeer, VsockAddress
from nitrohb.cli.output import LEVELS

__all__ = ["create_schema", "meanings", "schema_of", "summary"]

Json = dict[str, Any]

_COMMON: Final[Json] = {
    "time": {
        "type": "string",
        "format": "date-time",
        "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
    },
    "address": {"type": "string", "pattern": "^(vsock|unix|hybrid|fd):."},
}
_CID: Final[Json] = {"type": ["integer", "null"], "minimum": 0, "maximum": CID_ANY - 1}
_BYTE: Final[Json] = {"minimum": 0, "maximum": 255}

# A docstring names the class of an event, and JSON the event.
_NAMES: Final = {event.__name__: event.name for event in get_args(Event)}

_LEVEL: Final[Json] = {
    "enum": list(LEVELS),
    "description": "The level, the last field. Only the command line adds it.",
}

# The types of fields, in JSON.
_TYPES: Final[dict[object, Json]] = {
    bool: {"type": "boolean"},
    float: {"type": "number", "minimum": 0},  # seconds are the only ones
    RejectReason: {"enum": [str(reason) for reason in RejectReason]},
    VsockAddress | UnixPeer: {"type": ["string", "null"], "pattern": "^vsock:[0-9]+:[0-9]+$"},
    str | None: {"type": ["string", "null"]},
    int: {"type": "integer"} | _BYTE,  # a byte is the only one
    int | None: {"type": ["integer", "null"]} | _BYTE,
}


def create_schema() -> Json:
    """The JSON Schema of all events."""
    events = get_args(Event)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An event of nitrohb",
        "description": "A line of `nitrohb serve --format json`, or the data of an event over HTTP."
        " Later versions can add properties. A name never changes its meaning.",
        "oneOf": [{"$ref": f"#/$defs/{event.name}"} for event in events],
        "$defs": {event.name: schema_of(event) for event in events},
    }


def schema_of(event: type[Any]) -> Json:
    """The JSON Schema of one event."""
    said = meanings(event)
    properties: Json = {"event": {"const": event.name, "description": "The name of the event."}}
    own: Json = {}
    for name, type_ in get_type_hints(event).items():
        if name in _COMMON:
            properties[name] = _COMMON[name] | {"description": said[name]}
        elif name != "name":
            own[name] = _form(event, name, type_) | {"description": said[name]}
        if name == "peer":
            for it in UnixPeer._fields:
                described = {"description": _in_json(inspect.getdoc(getattr(event, it)) or "")}
                own[it] = {"type": ["integer", "null"], "minimum": int(it == "pid")} | described
    cid = _CID if "peer" in own else {"type": "null"}
    properties = {key: properties[key] for key in ("event", "time", "address")}
    properties["cid"] = cid | {"description": _in_json(inspect.getdoc(event.cid) or "")}
    properties |= own
    return {
        "type": "object",
        "description": summary(event),
        "properties": properties | {"level": _LEVEL},
        "required": list(properties),
    }


def summary(event: type[Any]) -> str:
    """The docstring of an event, without its fields."""
    return _named(re.split(r"\n+\w+:\n", inspect.getdoc(event) or "")[0])


def meanings(event: type[Any]) -> dict[str, str]:
    """The meaning of each field, from the docstrings of the class and its bases."""
    found: dict[str, str] = {}
    for owner in reversed(event.__mro__):
        _, _, attributes = (inspect.cleandoc(owner.__doc__ or "")).partition("Attributes:\n")
        for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
            found[name] = _in_json(text)
    fields = {field.name for field in dataclasses.fields(event)}
    if lacking := fields - found.keys():
        raise LookupError(f"the docstring of {event.__name__} does not describe {lacking}")
    return found


def _in_json(text: str) -> str:
    """The text of a docstring in one line, with JSON's names for values."""
    for python, name in (("None", "null"), ("True", "true"), ("False", "false")):
        text = re.sub(rf"\b{python}\b", name, text)
    return _named(re.sub(r"\s+", " ", text))


def _named(text: str) -> str:
    """The text of a docstring, with JSON's names for events."""
    text = text.replace("``", "`")
    return re.sub(r"`(\w+)`", lambda it: f"`{_NAMES.get(it[1], it[1])}`", text)


def _form(event: type[Any], name: str, type_: object) -> Json:
    for known, form in _TYPES.items():
        if type_ == known:
            return form
    raise LookupError(f"{event.__name__}.{name}: add {type_} to _TYPES")
