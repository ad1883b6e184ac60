# SPDX-License-Identifier: Apache-2.0
"""What the options of the command line take: each function reads one kind of value."""

from __future__ import annotations

import argparse
import math

from ..addresses import parse_address, parse_number
from ..errors import AddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from ..addresses import Address
    from ..api.address import ApiAddress

    T = TypeVar("T")

__all__ = ["address", "age", "api", "cid", "count", "group", "mode", "seconds", "timeout"]


def address(text: str) -> Address:
    """An address to listen on, or to connect to."""
    return _checked(parse_address, text)


def api(text: str) -> ApiAddress:
    """An address of the HTTP interface."""
    from ..api.address import parse_api_address  # here, because it is seldom asked for

    return _checked(parse_api_address, text)


def count(text: str) -> int:
    """A number from 1 up."""
    number = _checked(lambda number: parse_number("number", number), text)
    if number == 0:
        raise argparse.ArgumentTypeError("expected a number from 1 up, got '0'")
    return number


def cid(text: str) -> int:
    """A CID."""
    return _checked(lambda number: parse_number("CID", number), text)


def _checked(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except AddressError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def seconds(text: str, or_else: str = "") -> float:
    """A duration; the message names what else there could be."""
    if not 0 < (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, more than 0{or_else}, got {text!r}")
    return number


def age(text: str) -> float:
    """A duration that may be none."""
    if not 0 <= (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds, at least 0, got {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def timeout(text: str) -> float | None:
    """A duration; None for auto."""
    return None if text == "auto" else seconds(text, ", or auto")


def mode(text: str) -> int:
    """Permissions of a file, in octal."""
    if not text or len(text) > 4 or set(text) - set("01234567") or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"expected an octal mode from 0 to 777, got {text!r}")
    return int(text, 8)


def group(text: str) -> int:
    """The number of a group, which may be given by its name."""
    import grp  # here, because it is seldom asked for

    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        pass
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected the name or number of a group, got {text!r}")
