# SPDX-License-Identifier: Apache-2.0
"""What a client may ask in the body of a request: JSON, read strictly."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, NoReturn, cast

from .problems import ProblemError

__all__ = ["Claim", "LONGEST", "parse_claim", "parse_rearm"]

LONGEST: Final = 3600.0
"""How many seconds a claim may wait. Who wants to wait longer asks again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Which heartbeat a client wants, and how long it waits.

    Attributes:
        cid: That of the enclave with this CID, or of any.
        address: One that came in on this listen address, or on any.
        timeout: Seconds that it may take to come.
        max_age: Seconds since it came, at the most.
    """

    cid: int | None = None
    address: str | None = None
    timeout: float = 60.0
    max_age: float = 60.0


def parse_claim(body: bytes) -> Claim:
    """Read the body of ``POST /claims``.

    Raises:
        ProblemError: 400; says what is wrong.
    """
    fields = _parse(body, ("cid", "address", "timeout", "max_age"))
    if "cid" in fields:
        _check("cid", fields["cid"], int, "a number")
    if "address" in fields:
        _check("address", fields["address"], str, "a string")
    for name in fields.keys() & {"timeout", "max_age"}:
        _check_seconds(name, fields[name])
    claim = Claim(**fields)
    if not 0 < claim.timeout <= LONGEST:
        _refuse(f"timeout: expected more than 0 and at most {LONGEST:g} s, got {claim.timeout}")
    return claim


def parse_rearm(body: bytes) -> str | None:
    """Read the body of ``POST /rearm``: the address that is meant, or None for all.

    Raises:
        ProblemError: 400; says what is wrong.
    """
    fields = _parse(body, ("address",))
    if "address" not in fields:
        return None
    _check("address", fields["address"], str, "a string")
    address: str = fields["address"]
    return address


def _parse(body: bytes, known: Iterable[str]) -> dict[str, Any]:
    try:
        fields: Any = json.loads(
            body.decode(), object_pairs_hook=_distinct, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        _refuse(f"the body is not JSON: {error}")
    if not isinstance(fields, dict):
        _refuse("the body is not a JSON object")
    named = cast("dict[str, Any]", fields)
    if unknown := sorted(named.keys() - {*known}):
        _refuse(f"unknown field {unknown[0]!r}: expected {', '.join(known)}")
    return named


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def _check(name: str, value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):  # True is an int in Python
        _refuse(f"{name}: expected {what}, got {_shown(value)}")


def _check_seconds(name: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(_to_float(value)):
        _refuse(f"{name}: expected seconds, got {_shown(value)}")


def _to_float(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _refuse(detail: str) -> NoReturn:
    raise ProblemError(HTTPStatus.BAD_REQUEST, detail) from None
