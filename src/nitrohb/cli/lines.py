# SPDX-License-Identifier: Apache-2.0
"""How an event is written in a line: as JSON, or as text in logfmt."""

import json
from collections.abc import Mapping

from .output import LEVEL_NAMES, quoted

__all__ = ["json_line", "text_line"]

JsonValue = str | int | float | bool | None


def json_line(fields: Mapping[str, JsonValue], level: int) -> str:
    """One line of JSON, of the fields of an event and its level."""
    return json.dumps({**fields, "level": LEVEL_NAMES[level]})


def text_line(fields: Mapping[str, JsonValue], level: int) -> str:
    """One line of text: the time (UTC), ``nitro_`` and the event's name, its fields, its level.

    The lines look like the trace events of QEMU's device with ``-msg timestamp=on``, such as
    ``nitro_heartbeat_done``, so that one ``grep nitro_heartbeat`` finds both. Fields that are null
    are left out.
    """
    line = f"{fields['time']} nitro_{fields['event']}"
    for key, value in fields.items():
        if value is not None and key not in ("time", "event"):
            line += f" {key}={_value(key, value)}"
    return f"{line} level={LEVEL_NAMES[level]}"


def _value(key: str, value: JsonValue) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        return f"{value:.6f}"
    if key == "byte":
        return f"0x{value:02x}"
    return str(value).lower()  # a number, or as in JSON: true, false
