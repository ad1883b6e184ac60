# SPDX-License-Identifier: Apache-2.0
"""Summaries of the events of each address.

test_logs.py has their lines; test_serve.py and test_run.py have the messages at the end.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from nitrohb import (
    Address,
    Connected,
    Disconnected,
    Done,
    Event,
    Evicted,
    Heartbeat,
    HybridAddress,
    Listening,
    Lost,
    Rejected,
    RejectReason,
    UnixAddress,
    UnixPeer,
    Unlistened,
    VsockAddress,
    open_listeners,
)
from nitrohb.addresses import InheritedSocket
from nitrohb.cli.output import Output
from nitrohb.cli.report import Summary, explain_timeout

from .events import ANY, made

UNIX = UnixAddress("/run/it's")
CONNECTED, DISCONNECTED = made(Connected), made(Disconnected)


def rejected(reason: RejectReason) -> list[Event]:
    byte = 0 if reason is RejectReason.WRONG_BYTE else None
    return [CONNECTED, made(Rejected, reason=reason, byte=byte)]


def summary_of(*events: Event) -> Summary:
    summary = Summary()
    for event in events:
        summary.on_event(event)
    return summary


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([], ""),
        ([CONNECTED], "1 had sent nothing yet"),
        ([CONNECTED, DISCONNECTED], "1 closed without a byte"),
        ([CONNECTED, made(Evicted)], "1 evicted to make room"),
        (rejected(RejectReason.CID), "1 came from CID 16, which is not allowed"),
        (
            [CONNECTED, made(Rejected, peer=UnixPeer(None, 7, 8), reason=RejectReason.UID)],
            "1 came from uid 7, which is not allowed",
        ),
        (rejected(RejectReason.REARMED), "1 came before the address was rearmed"),
        (
            [*2 * rejected(RejectReason.TIMEOUT), *rejected(RejectReason.WRONG_BYTE)],
            "2 sent nothing; 1 sent 0x00 instead of 0xB7",
        ),
        ([CONNECTED, made(Heartbeat), *rejected(RejectReason.ALREADY_ANSWERED)], None),
    ],
)
def test_what_arrived_instead_of_a_heartbeat(events: Sequence[Event], seen: str | None) -> None:
    summary = summary_of(made(Listening), *events)
    assert list(summary.without_heartbeat()) == ([] if seen is None else [(ANY, seen)])


def test_status_has_the_last_heartbeat_their_number_and_what_is_awaited() -> None:
    summary = summary_of(made(Listening), made(Listening, address=UNIX))
    assert (summary.all_listen(2), summary.all_listen(3)) == (True, False)
    waiting = f"waiting for a heartbeat on vsock::9000, {UNIX}"
    assert summary.status() == waiting
    for count, event in enumerate(
        (made(Heartbeat), made(Heartbeat, address=UNIX, peer=UnixPeer(7, 8, 9))), 1
    ):
        summary.on_event(made(Connected, address=event.address))
        summary.on_event(event)
        cid = "" if event.cid is None else " from CID 16"
        last = f"last heartbeat 2026-01-02 03:04:05Z{cid} on {event.address}, {count} in all"
        assert summary.status() == f"{last}; {waiting}"
    summary.on_event(made(Done))
    assert summary.awaited() == f"a heartbeat on {UNIX}"
    summary.on_event(made(Done, address=UNIX))
    assert summary.status().endswith(", 2 in all; waiting for nothing more")


@pytest.mark.parametrize(
    ("address", "where"),
    [
        (ANY, "Test it from inside the enclave: nitrohb send vsock:3:9000"),
        (VsockAddress(1, 9000), "Test it from inside the enclave: nitrohb send vsock:3:9000"),
        (VsockAddress(5, 9001), "Test it from inside the enclave: nitrohb send vsock:5:9001"),
        (UNIX, """Test it from this machine: nitrohb send 'unix:/run/it'"'"'s'"""),
        (HybridAddress("vm", 9000), "Test it from this machine: nitrohb send hybrid:vm:9000"),
        (InheritedSocket(3), None),  # nobody knows where it is bound
    ],
)
def test_timeout_without_a_connection_says_what_to_try(
    address: Address, where: str | None, output: Output, capfd: pytest.CaptureFixture[str]
) -> None:
    explain_timeout(summary_of(made(Listening, address=address)), 5, output)
    first, _, *advice = capfd.readouterr().err.splitlines()
    assert first == f"nitrohb: no heartbeat on {address} within 5 s: nobody connected"
    if where is None:
        assert not advice
        return
    send, doctor = advice
    assert send == where
    assert doctor.startswith("Check this machine: nitrohb doctor -l ")


def test_timeout_on_a_socket_file_says_who_may_connect(
    tmp_path: Path, output: Output, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also if the file is gone by then, because the server has ended."""
    for mode, is_advised in ((0o600, True), (0o660, False)):
        address = HybridAddress(str(tmp_path / "v.sock"), 9000)
        with open_listeners([address], socket_mode=mode)[0]:
            summary = summary_of(made(Listening, address=address))
        explain_timeout(summary, 5, output)
        err = capfd.readouterr().err
        assert f"; {address.path} has mode {mode:o}, owner {os.getuid()} and group " in err
        assert ("--socket-mode 660 --socket-group GROUP" in err) == is_advised
        summary.on_event(made(Lost, address=address, replaced=False, problem="/x is gone"))
        explain_timeout(summary, 5, output)
        assert "has mode" not in capfd.readouterr().err


def test_an_address_that_was_removed_is_not_awaited() -> None:
    other = UnixAddress("/run/x")
    summary = summary_of(
        made(Listening),
        made(Listening, address=other),
        made(Connected),
        made(Heartbeat),
        made(Unlistened),
    )
    assert summary.status().endswith(" 1 in all; waiting for a heartbeat on unix:/run/x")
    assert [address for address, _ in summary.without_heartbeat()] == [other]
    summary.on_event(made(Unlistened, address=other))
    assert summary.awaited() == "an address"
