# SPDX-License-Identifier: Apache-2.0
"""``nitrohb wait``: claim a heartbeat from a running server. This needs no extra."""

import time
from typing import Any, Final

from . import exit_codes
from .api_client import BUSY, OK, TIMEOUT, not_nitrohb, refusal, request
from .lines import json_line, text_line
from .output import INFO, Output
from .settings import WaitSettings
from .signals import Signals

_LONGEST: Final = 3600.0  # seconds: the longest wait of one request (api/requests.py)
_PAUSE: Final = 0.5  # seconds before another request to a busy server

_FIELDS: Final[dict[str, tuple[type, ...]]] = {
    "time": (str,),
    "address": (str,),
    "cid": (int, type(None)),
    "peer": (str, type(None)),
    **dict.fromkeys(("pid", "uid", "gid"), (int, type(None))),
    "byte": (int,),
    "listening_seconds": (float, int),
    "echo_seconds": (float, int),
    "echoed": (bool,),
}


def wait(settings: WaitSettings, output: Output, signals: Signals) -> int:
    """Claim one heartbeat, print it, and return the exit code."""
    target, server = settings.target, settings.api
    is_cid = isinstance(target, int)
    wanted: dict[str, object] = {"cid": target} if is_cid else {"address": str(target)}
    where = f"from CID {target}" if is_cid else f"on {target}"
    output.status(f"waiting for a heartbeat {where}, {settings.timeout:g} s at most")
    until = time.monotonic() + settings.timeout
    status, answer = TIMEOUT, dict[str, Any]()
    while signals.signal is None and (left := until - time.monotonic()) > 0:
        timeout = min(left, _LONGEST)
        # Rounded, because the answer repeats it.
        claim = wanted | {"max_age": settings.max_age, "timeout": max(round(timeout, 3), 0.001)}
        status, answer = request(server, "POST /claims", claim, timeout, signals)
        if status not in (TIMEOUT, BUSY):
            break
        if status == BUSY:
            time.sleep(min(_PAUSE, max(0.0, until - time.monotonic())))
    if signals.signal is not None:
        return 128 + signals.signal
    return _print_answer(status, answer, settings, output)


def _print_answer(
    status: int, answer: dict[str, Any], settings: WaitSettings, output: Output
) -> int:
    """Print the answer of the server, and return the exit code."""
    if status == OK:
        is_event = all(isinstance(answer.get(name), kinds) for name, kinds in _FIELDS.items())
        if not is_event or set(answer["time"]) - set("0123456789-:.TZ"):
            raise not_nitrohb(settings.api)
        fields = {"event": "heartbeat"} | {name: answer.get(name) for name in _FIELDS}
        to_line = json_line if settings.format == "json" else text_line
        output.print_out(to_line(fields, INFO))
        return exit_codes.DONE
    refused = refusal(settings.api, status, answer)
    if status in (TIMEOUT, BUSY):
        output.print_err(f"nitrohb: {refused}")
        return exit_codes.TIMED_OUT
    raise refused
