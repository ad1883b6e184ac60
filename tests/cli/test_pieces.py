# SPDX-License-Identifier: Apache-2.0
"""The pieces of the console script, where a process would need an AF_VSOCK or perfect timing."""

import contextlib
import errno
import importlib.util
import os
import select
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from nitrohb import (
    CID_ANY,
    Address,
    Connected,
    Disconnected,
    Event,
    Evicted,
    Heartbeat,
    Listener,
    Listening,
    Lost,
    Rejected,
    RejectReason,
    VsockAddress,
)
from nitrohb.cli import levels, terminal
from nitrohb.cli.console import Console
from nitrohb.cli.hints import Hints
from nitrohb.cli.report import Reporter
from nitrohb.cli.stop import Stop

from .process import connected, listening, nitrohb_here

ANY = VsockAddress(CID_ANY, 9000)
PEER = VsockAddress(16, 1234)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TIME = datetime(2025, 1, 2, 3, 4, 5, 6789, tzinfo=UTC)


def rejected(reason: RejectReason, byte: int | None = None) -> Rejected:
    return Rejected(address=ANY, time=TIME, peer=PEER, reason=reason, byte=byte)


def heartbeat(*, echoed: bool = True) -> Heartbeat:
    return Heartbeat(
        address=ANY,
        time=TIME,
        peer=PEER,
        listening_seconds=75.04,
        echo_seconds=0.0002,
        echoed=echoed,
    )


CONNECTED = Connected(address=ANY, time=TIME, peer=PEER)
DISCONNECTED = Disconnected(address=ANY, time=TIME, peer=PEER)


@pytest.mark.parametrize(
    ("events", "seen"),
    [
        ([], ""),
        ([CONNECTED], "1 had sent nothing yet"),
        ([CONNECTED, DISCONNECTED], "1 closed without a byte"),
        (
            [CONNECTED, rejected(RejectReason.CID)],
            "1 came from CID 16, which is not allowed",
        ),
        (
            [CONNECTED, CONNECTED, rejected(RejectReason.WRONG_BYTE, 0), DISCONNECTED],
            "1 sent 0x00 instead of 0xB7; 1 closed without a byte",
        ),
        (
            2 * [CONNECTED, rejected(RejectReason.TIMEOUT)] + [CONNECTED, DISCONNECTED],
            "2 sent nothing; 1 closed without a byte",
        ),
        (
            [CONNECTED, rejected(RejectReason.REARMED)],
            "1 came before the address was rearmed",
        ),
        ([CONNECTED, Evicted(address=ANY, time=TIME, peer=PEER)], "1 had to make room"),
    ],
)
def test_reporter_remembers_what_came_instead_of_a_heartbeat(
    events: list[Event], seen: str
) -> None:
    report = Reporter(lambda event: None)
    report(Listening(address=ANY, time=TIME))
    for event in events:
        report(event)
    assert list(report.unheard()) == [(ANY, seen)]


LOOPBACK = VsockAddress(1, 1024)
FROM_LOOPBACK = Connected(address=ANY, time=TIME, peer=LOOPBACK)
REFUSED = Rejected(address=ANY, time=TIME, peer=LOOPBACK, reason=RejectReason.CID)


def test_who_is_refused_because_of_the_loopback_is_named_once() -> None:
    said: list[str] = []
    hints = Hints(said.append, None)
    for event in (
        CONNECTED,
        rejected(RejectReason.CID),
        FROM_LOOPBACK,
        Rejected(address=ANY, time=TIME, peer=LOOPBACK, reason=RejectReason.TIMEOUT),
    ):
        hints(event)
    assert not said, "whoever names no CID is not told about CIDs"
    for _ in range(3):
        hints(REFUSED)
    (hint,) = said
    assert hint.startswith("nitrohb: a connection from CID 1 on vsock::9000 is refused: every VM")
    assert "forward-cid=1" in hint
    assert len(hint.splitlines()) == 2


def test_who_comes_over_the_loopback_while_another_is_awaited_is_named_once() -> None:
    said: list[str] = []
    hints = Hints(said.append, None)
    hints.awaits_cid = lambda: True
    hints(CONNECTED)
    assert not said
    for event in 2 * (FROM_LOOPBACK, REFUSED):
        hints(event)
    (hint,) = said
    assert "has come while another CID is awaited: every VM" in hint


def test_a_loss_is_said_when_there_is_something_to_be_done() -> None:
    said: list[str] = []
    hints = Hints(said.append, None)
    hints(Lost(address=ANY, time=TIME, replaced=False))
    assert not said
    lost = Lost(address=ANY, time=TIME, replaced=False, problem="why\nwhat to do")
    hints(lost)
    assert said == [f"nitrohb: {lost.explanation}"]


def test_address_with_a_heartbeat_is_not_unheard_whatever_else_came() -> None:
    report = Reporter(lambda event: None)
    events = (CONNECTED, CONNECTED, heartbeat(), rejected(RejectReason.ANSWERED))
    for event in (Listening(address=ANY, time=TIME), *events):
        report(event)
    assert list(report.unheard()) == []


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

    monkeypatch.setattr("nitrohb.cli.listening.open_listeners", open_listeners)
    code, out, err = nitrohb_here(*args, "--quiet", "--timeout", "0.05")
    assert (code, out) == (124, "")
    assert err == (
        f"nitrohb: no heartbeat on {address} within 0.05 s: nobody connected\n"
        "Does the enclave run, and do its connections arrive here?"
        f" To try it out, inside the enclave: {advice}\n"
        f"To check this machine: nitrohb doctor -l {address}\n"
    )


def test_listening_socket_that_breaks_is_told_in_words(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Listener) -> NoReturn:
        raise OSError(errno.ENOTSOCK, "broken")

    monkeypatch.setattr(Listener, "accept", broken)
    with listening(sock) as server, connected(sock):
        fd = server.detach()  # nitrohb's from now on
        result = nitrohb_here("-l", f"fd:{fd}", "--quiet")
    assert result == (
        1,
        "",
        f"nitrohb: cannot listen on unix:{sock}: it is not a socket (ENOTSOCK)\n"
        "Pass a listening socket in under that number.\n",
    )


@pytest.fixture
def handlers() -> Iterator[None]:
    """Leave the handlers of signals, and what is blocked, as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # forgets one that is blocked
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)


async def no_answer() -> int:
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def answer() -> int:
    return 7


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_before_the_command_begins_cancels_it(number: int, status: int) -> None:
    with Stop() as stop:
        signal.raise_signal(number)
        assert stop.run(no_answer) == status


@pytest.mark.usefixtures("handlers")
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


@pytest.mark.usefixtures("handlers")
def test_two_signals_at_once_are_one() -> None:
    with Stop() as stop:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in SIGNALS:
            signal.raise_signal(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        assert stop.run(no_answer) == 130


@pytest.mark.usefixtures("handlers")
def test_signal_after_the_command_has_ended_does_no_harm() -> None:
    with Stop() as stop:
        assert stop.run(answer) == 7
        signal.raise_signal(signal.SIGTERM)
    assert stop.signal == signal.SIGTERM


@pytest.mark.usefixtures("handlers")
def test_demo_that_is_interrupted_does_not_tell_of_a_whole_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(_: Address) -> float:
        signal.raise_signal(signal.SIGINT)
        return await no_answer()

    monkeypatch.setattr("nitrohb.client.send_heartbeat", interrupted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code, out, err = nitrohb_here("demo")
    assert (code, err) == (130, "")
    assert out.splitlines()[-1] == "enclave  boots: its init connects and sends 0xB7"
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("handlers")
def test_handlers_are_put_back_and_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not before
        assert stop.run(answer) == 7
    assert signal.getsignal(signal.SIGTERM) is before


def test_console_that_finds_no_descriptor_to_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with (
        contextlib.suppress(OSError),  # what cannot be written is still in the buffer at its close
        open("/dev/full", "w") as full,
        open(os.memfd_create("err"), "w+") as err,
    ):
        monkeypatch.setattr("sys.stdout", full)
        monkeypatch.setattr("sys.stderr", err)
        with monkeypatch.context() as exhausted:
            exhausted.setattr(os, "open", none_left)
            console = Console()
        console.print("lost")
        console.print("not even tried")
        console.close()
        err.seek(0)
        problem = os.strerror(errno.ENOSPC)
        said = f"nitrohb: stdout: {problem}; nothing more is printed there\n"
        assert err.read() == said


def test_console_does_not_wait_for_ever_for_a_pipe_with_some_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write of more than there is room for would block, although the pipe is writable."""
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as pipe, open(writer, "w") as out:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, bytes(select.PIPE_BUF))
        os.set_blocking(writer, True)
        pipe.read(select.PIPE_BUF)
        with open(os.memfd_create("err"), "w+") as err:
            monkeypatch.setattr("sys.stdout", out)
            monkeypatch.setattr("sys.stderr", err)
            console = Console()
            console.print("line\n" * 10_000)
            console.close()
            err.seek(0)
            assert err.read().startswith("nitrohb: stdout: nobody reads it; ")


def find_nothing(_: str) -> None:
    """Stands for importlib.util.find_spec where no extra is installed."""


def test_without_the_extra_it_says_how_to_get_it(
    sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as missing:
        missing.setattr(importlib.util, "find_spec", find_nothing)
        result = nitrohb_here("--keep", "-l", f"unix:{sock}", "--api", "127.0.0.1:9180")
    message = "nitrohb: --api needs the extra api: pip install 'nitrohb[api]'\n"
    assert result == (2, "", message)
    assert not sock.exists()


@pytest.mark.usefixtures("handlers")
def test_signal_before_a_wait_has_begun(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come just before there is a connection, and just after."""

    def interrupted(client: socket.socket, _: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(socket.socket, "connect", interrupted)
    result = nitrohb_here("wait", "--cid", "16", "--api", f"unix:{sock}")
    assert result == (143, "", "")


@pytest.mark.usefixtures("handlers")
def test_signal_that_breaks_the_connecting(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(client: socket.socket, _: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise ConnectionAbortedError(errno.ECONNABORTED, "shut down")

    monkeypatch.setattr(socket.socket, "connect", interrupted)
    result = nitrohb_here("wait", "--cid", "16", "--api", f"unix:{sock}")
    assert result == (130, "", "")


@pytest.mark.usefixtures("handlers")
def test_signal_that_has_come_already_cancels_at_once() -> None:
    called: list[int] = []
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        with stop.cancelling(lambda: called.append(1)):
            assert called == [1]


def test_whoever_has_ended_need_not_be_sent_what_the_terminal_has_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal, "_is_in_foreground", lambda: True)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
        assert terminal.is_sent_by_terminal_to(ended.pid, signal.SIGINT)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as ours:
        assert terminal.is_sent_by_terminal_to(ours.pid, signal.SIGINT)
        assert not terminal.is_sent_by_terminal_to(ours.pid, signal.SIGHUP)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, process_group=0) as other:
        assert not terminal.is_sent_by_terminal_to(other.pid, signal.SIGINT)


def test_what_does_not_matter_enough_is_not_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open(os.memfd_create("err"), "w+") as err:
        monkeypatch.setattr("sys.stderr", err)
        console = Console()
        console.level = levels.ERROR
        console.say("a warning", levels.WARNING)
        console.say("an error")
        console.close()
        err.seek(0)
        assert err.read() == "an error\n"


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
    assert f" has too many open files ({errno.errorcode[number]})\nRaise " in err


def test_another_system_error_is_a_bug(sock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("nitrohb.cli.serve.listening", fails)
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="Input/output error")):
        nitrohb_here("-l", f"unix:{sock}")
