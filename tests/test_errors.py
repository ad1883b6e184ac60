# SPDX-License-Identifier: Apache-2.0
"""Errors: their texts, how to catch them, and how they reach another process."""

import copy
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest

import nitrohb
from nitrohb import (
    Connected,
    ConnectError,
    Disconnected,
    Evicted,
    HeartbeatTimeoutError,
    ListenError,
    NitrohbError,
    NoHeartbeatError,
    Rejected,
    RejectReason,
    UnixAddress,
    UnusableAddressError,
    WrongByteError,
    parse_address,
)
from nitrohb.events import ConnectionEvent

WHERE: dict[str, Any] = {"address": UnixAddress("a"), "time": datetime.now(UTC), "peer": None}
SEEN: tuple[ConnectionEvent, ...] = (
    *(Rejected(**WHERE, reason=reason, byte=0x78) for reason in RejectReason),
    Disconnected(**WHERE),
    Evicted(**WHERE),
    Connected(**WHERE),
)
UNUSABLE = (UnusableAddressError, ListenError, ConnectError)
ERRORS: dict[type[NitrohbError], NitrohbError] = {
    HeartbeatTimeoutError: HeartbeatTimeoutError("no heartbeat came", SEEN),
    WrongByteError: WrongByteError("wrong", 0x78),
    NoHeartbeatError: NoHeartbeatError(16, parse_address("vsock::9000"), ended=True),
    **{kind: kind("unix:a", 2, "it is not there", "Make it.") for kind in UNUSABLE},
}
ALL = [getattr(nitrohb, name) for name in nitrohb.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_its_message_wherever_it_is_shown(kind: type[NitrohbError]) -> None:
    error = ERRORS.get(kind) or kind("what failed")
    message = str(error)
    assert len(message.split()) > 1 or kind is WrongByteError
    assert repr(error) == f"{kind.__name__}({message!r})"
    assert repr(message) in repr(ExceptionGroup("several", [error]))
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(twin), str(twin), vars(twin)) == (kind, message, vars(error))


@pytest.mark.parametrize("kind", ALL)
def test_no_error_is_an_oserror(kind: type[NitrohbError]) -> None:
    """A launcher catches OSError around the start of its VMM: that must not hide a time-out."""
    assert not issubclass(kind, OSError)


def test_a_timeout_describes_what_came_instead() -> None:
    message = str(HeartbeatTimeoutError("no heartbeat came", (*SEEN, SEEN[-1])))
    assert message.startswith("no heartbeat came: 2 ")
    assert message.count("; ") == len(SEEN) - 1
    assert "1 sent 0x78 instead of 0xB7" in message
    nobody, remedy = str(HeartbeatTimeoutError("no heartbeat came", ())).splitlines()
    assert nobody.endswith(": nobody connected")
    assert "console" in remedy
    assert str(HeartbeatTimeoutError("no answer")) == "no answer"
