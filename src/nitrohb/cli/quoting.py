# SPDX-License-Identifier: Apache-2.0
"""Text from outside, in a line of ours: it can neither split the line, nor pass for more of it."""

import re
from typing import Final

__all__ = ["printable", "quoted"]

_is_plain: Final = re.compile(r"[!#-<>-\[\]-~]+").fullmatch  # ASCII without a space, ", = and \


def quoted(text: str) -> str:
    r"""A text as a value of logfmt: as it is, or as a JSON string where that could be misread.

    What cannot be printed, or is a byte that is no text, is written like ``\u001b``.
    """
    if _is_plain(text):
        return text
    escaped = text.replace("\\", r"\\").replace('"', r"\"")
    return f'"{printable(escaped)}"'


def printable(text: str) -> str:
    r"""A text on one line, with what cannot be printed, say a line break, written ``\u000a``."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()  # as JSON counts them
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
