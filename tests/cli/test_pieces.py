# SPDX-License-Identifier: Apache-2.0
"""The pieces of the console script, where a process would need an AF_VSOCK or perfect timing."""

import errno
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from nitrohb.cli.hints import Hints
from nitrohb.cli.printing import printing
from nitrohb.cli.stop import Stop
from trio.testing import wait_all_tasks_blocked

from nitrohb import (
    Address,
    Connected,
    Disconnected,
    Done,
    Event,
    Evicted,
    Heartbeat,
    Listener,
    Listening,
    Lost,
    Rejected,
    RejectReason,
    UnixAddress,
    VsockAddress,
)
from nitrohb.cli import terminal
from nitrohb.cli.report import Reporter
from tests.support import child

from .events import ANY, made
from .process import PATIENCE, connected, listening, nitrohb_here

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LISTENING = made(Listening)
CONNECTED = made(Connected)
FROM_LOOPBACK = made(Connected, cid=1)
DISCONNECTED = made(Disconnected)


def rejected(reason: RejectReason, byte: int | None = None) -> Event:
    return made(Rejected, reason=reason, byte=byte)


def test_reporter_remembers_what_came_instead_of_a_heartbeat() -> None:
    cases: list[tuple[list[Event], str | None]] = [
        ([], ""),
        ([CONNECTED], "1 had sent nothing yet"),
        ([CONNECTED, DISCONNECTED], "1 closed without a byte"),
        ([CONNECTED, rejected(RejectReason.CID)], "1 came from CID 16, which is not allowed"),
        (
            [CONNECTED, CONNECTED, rejected(RejectReason.WRONG_BYTE, 0), DISCONNECTED],
            "1 sent 0x00 instead of 0xB7; 1 closed without a byte",
        ),
        (
            [*2 * (CONNECTED, rejected(RejectReason.TIMEOUT)), CONNECTED, DISCONNECTED],
            "2 sent nothing; 1 closed without a byte",
        ),
        ([CONNECTED, rejected(RejectReason.REARMED)], "1 came before the address was rearmed"),
        ([CONNECTED, made(Evicted)], "1 had to make room"),
        ([CONNECTED, CONNECTED, made(Heartbeat), rejected(RejectReason.ANSWERED)], None),
    ]
    for events, seen in cases:
        report = Reporter(lambda event: None)
        for event in (LISTENING, *events):
            report(event)
        assert list(report.unheard()) == ([] if seen is None else [(ANY, seen)])


def test_reporter_names_what_is_still_awaited() -> None:
    report = Reporter(lambda event: None)
    awaited: list[str] = []
    for event in (
        LISTENING,
        made(Listening, address=UnixAddress("x")),
        made(Done),
        made(Done, address=UnixAddress("x")),
    ):
        report(event)
        awaited.append(report.awaited().removeprefix("a heartbeat on "))
    assert awaited == ["vsock::9000", "vsock::9000, unix:x", "unix:x", "nothing more"]


@pytest.mark.parametrize(
    ("allow_cids", "is_awaited", "event", "what"),
    [
        ({16}, False, made(Rejected, cid=1, reason=RejectReason.CID), "is refused"),
        ({1, 16}, False, FROM_LOOPBACK, "is allowed, whichever VM it is of"),
        (None, True, FROM_LOOPBACK, "has come while another CID is awaited"),
    ],
)
def test_a_cid_that_all_vms_have_is_told_of_once(
    allow_cids: set[int] | None, is_awaited: bool, event: Event, what: str
) -> None:
    said: list[str] = []
    hints = Hints(said.append, allow_cids)
    hints.awaits_cid = lambda: is_awaited
    for other in (
        CONNECTED,
        rejected(RejectReason.CID),
        made(Rejected, cid=1, reason=RejectReason.TIMEOUT),
    ):
        hints(other)
    assert not said
    for _ in range(3):
        hints(event)
    (hint,) = said
    first, second = hint.splitlines()
    assert first.startswith(f"nitrohb: a connection from CID 1 on vsock::9000 {what}: ")
    assert "forward-cid=1" in first + second
    assert "sibling VM" in second


def test_whoever_needs_no_cid_is_not_told_about_cids() -> None:
    said: list[str] = []
    for allow_cids in (None, [1], [16]):
        Hints(said.append, allow_cids)(FROM_LOOPBACK)
    assert not said


def test_a_loss_is_said_when_there_is_something_to_be_done() -> None:
    said: list[str] = []
    hints = Hints(said.append, None)
    hints(made(Lost, replaced=False))
    assert not said
    lost = made(Lost, replaced=False, problem="why\nwhat to do")
    hints(lost)
    assert said == [f"nitrohb: {lost.explanation}"]


@pytest.mark.parametrize("end", ["return", "cancellation", "failure"])
@pytest.mark.parametrize("is_idle_first", [False, True])
async def test_events_are_printed_in_order_and_the_rest_at_the_end(
    end: str, is_idle_first: bool
) -> None:
    printed: list[str] = []
    fails = pytest.RaisesGroup(ZeroDivisionError) if end == "failure" else nullcontext()
    with fails, trio.CancelScope() as scope:
        async with printing(printed.append, lambda event: event.name) as show:
            if is_idle_first:
                await wait_all_tasks_blocked()
            show(CONNECTED)
            show(DISCONNECTED)
            if end == "cancellation":
                scope.cancel()
                await trio.lowlevel.checkpoint()
            elif end == "failure":
                raise ZeroDivisionError
    assert printed == ["connected\ndisconnected"]


async def test_what_comes_in_one_pass_of_the_event_loop_is_printed_together() -> None:
    printed: list[str] = []
    async with printing(printed.append, lambda event: event.name) as show:
        await wait_all_tasks_blocked()
        assert not printed, "nothing comes of nothing"
        show(LISTENING)
        await wait_all_tasks_blocked()
        show(CONNECTED)
        show(DISCONNECTED)
        assert printed == ["listening"]
        await wait_all_tasks_blocked()
        assert printed == ["listening", "connected\ndisconnected"]


@pytest.mark.parametrize(
    ("args", "address", "advice"),
    [
        ([], ANY, "nitrohb send vsock:3:9000"),
        (["-l", "vsock:5:9001"], VsockAddress(5, 9001), "nitrohb send vsock:5:9001"),
    ],
)
def test_timeout_on_vsock_tells_what_to_try_inside_the_enclave(
    args: list[str], address: Address, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_listeners(addresses: Sequence[Address], **_: object) -> list[Listener]:
        assert addresses == [address]
        sock = socket.socket(socket.AF_UNIX)  # in the place of an AF_VSOCK, which may be missing
        sock.bind("")
        sock.listen()
        return [Listener(address, sock)]

    monkeypatch.setattr("nitrohb.cli.serve.open_listeners", open_listeners)
    code, out, err = nitrohb_here(*args, "--quiet", "--timeout", "0.01")
    assert (code, out) == (124, "")
    assert f"no heartbeat on {address} within 0.01 s: nobody connected\n" in err
    assert f"inside the enclave: {advice}\n" in err
    assert err.endswith(f"nitrohb doctor -l {address}\n")


def test_listening_socket_that_breaks_is_told_in_words(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Listener) -> NoReturn:
        raise OSError(errno.ENOTSOCK, "broken")

    monkeypatch.setattr(Listener, "accept", broken)
    with listening(sock) as server, connected(sock):
        fd = server.detach()  # nitrohb's from now on
        code, out, err = nitrohb_here("-l", f"fd:{fd}", "--quiet", "--timeout", "10")
    assert (code, out) == (1, "")
    assert f"cannot listen on unix:{sock}: it is not a socket (ENOTSOCK)\n" in err


async def no_answer() -> int:
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def answer() -> int:
    return 7


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_before_the_command_begins_cancels_it(number: int, status: int) -> None:
    called: list[int] = []
    with Stop() as stop:
        signal.raise_signal(number)
        with stop.cancelling(lambda: called.append(1)):
            assert called == [1], "at once"
        assert stop.run(no_answer) == status


def test_first_signal_decides_and_another_does_no_harm() -> None:
    async def interrupted() -> int:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        return await no_answer()

    with Stop() as stop:
        assert stop.run(interrupted) == 143
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert stop.signal == signal.SIGTERM


def test_two_signals_at_once_are_one() -> None:
    with Stop() as stop:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in SIGNALS:
            signal.raise_signal(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        assert stop.run(no_answer) == 130


def test_demo_that_is_interrupted_does_not_tell_of_a_whole_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: Address) -> float:
        signal.raise_signal(signal.SIGINT)
        return await no_answer()

    monkeypatch.setattr("nitrohb.cli.demo.send_heartbeat", interrupted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = nitrohb_here("demo")
    assert (code, err) == (130, "")
    assert out.splitlines()[-1] == "enclave  boots: its init connects and sends 0xB7"
    assert os.listdir(tmp_path) == []


def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not before
        assert stop.run(answer) == 7
        signal.raise_signal(signal.SIGTERM)  # it does no harm any more
    assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("number", "problem"),
    [(signal.SIGTERM, None), (signal.SIGINT, ConnectionAbortedError(errno.ECONNABORTED, ""))],
)
def test_signal_while_a_wait_connects(
    number: int, problem: OSError | None, sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes just before there is a connection, or breaks the connecting."""

    def interrupted(client: socket.socket, _: object) -> None:
        signal.raise_signal(number)
        if problem is not None:
            raise problem

    monkeypatch.setattr(socket.socket, "connect", interrupted)
    result = nitrohb_here("wait", "--cid", "16", "--api", f"unix:{sock}", "--timeout", "10")
    assert result == (128 + number, "", "")


def test_whoever_has_ended_need_not_be_sent_what_the_terminal_has_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "_is_in_foreground", lambda: True)
    with child(["true"]) as ended:
        ended.wait(PATIENCE)
        assert terminal.is_sent_by_terminal_to(ended.pid, signal.SIGINT)
    with child(["cat"], stdin=subprocess.PIPE) as ours:
        assert terminal.is_sent_by_terminal_to(ours.pid, signal.SIGINT)
        assert not terminal.is_sent_by_terminal_to(ours.pid, signal.SIGHUP)
    with child(["cat"], stdin=subprocess.PIPE, process_group=0) as other:
        assert not terminal.is_sent_by_terminal_to(other.pid, signal.SIGINT)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_lack_of_descriptors_anywhere_is_told_once(
    nested: bool, number: int, sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error: Exception = OSError(number, os.strerror(number))

    def fails(*_: object) -> NoReturn:
        raise ExceptionGroup("", [error, ExceptionGroup("", [error])]) if nested else error

    monkeypatch.setattr("nitrohb.cli.serve.listening", fails)
    code, out, err = nitrohb_here("-l", f"unix:{sock}")
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert f"too many open files ({errno.errorcode[number]})" in err


def test_another_system_error_is_a_bug(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("nitrohb.cli.serve.listening", fails)
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match=os.strerror(errno.EIO))):
        nitrohb_here("-l", f"unix:{sock}")
