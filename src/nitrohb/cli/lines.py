# SPDX-License-Identifier: Apache-2.0
"""Write an event as one line: JSON, or text in logfmt."""

import json
from collections.abc import Mapping

from .output import LEVEL_NAMES, quoted

JsonValue = str | int | float | bool | None


def json_line(fields: Mapping[str, JsonValue], level: int) -> str:
    """One line of JSON: the fields of an event, and its level."""
    return json.dumps({**fields, "level": LEVEL_NAMES[level]})


def text_line(fields: Mapping[str, JsonValue], level: int) -> str:
    """One line of text: time (UTC), ``nitro_`` and the name of the event, its fields, its level.

    The line resembles a trace event of QEMU with ``-msg timestamp=on``, such as
    ``nitro_heartbeat_done``: one ``grep nitro_heartbeat`` finds both. Null fields are omitted.
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
