# SPDX-License-Identifier: Apache-2.0
"""Signals that arrive at a certain moment. test_serve.py and test_run.py send many to a process."""

import errno
import signal
import socket
from pathlib import Path

import pytest
import trio

from nitrohb.cli.signals import Signals

from .process import nitrohb_here

BOTH = (signal.SIGINT, signal.SIGTERM)


async def never() -> int:
    await trio.sleep_forever()
    raise AssertionError("unreachable")


async def seven() -> int:
    return 7


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_before_the_command_cancels_it(number: int, status: int) -> None:
    called: list[int] = []
    signals = Signals()
    signals.install()
    signal.raise_signal(number)
    with signals.cancelling(lambda: called.append(1)):
        assert called == [1]
    assert signals.run(never) == status


def test_the_first_signal_decides_and_later_ones_are_ignored() -> None:
    async def interrupted() -> int:
        for number in reversed(BOTH):
            signal.raise_signal(number)
        return await never()

    signals = Signals()
    signals.install()
    assert signals.run(interrupted) == 143
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGTERM)
    assert signals.signal == signal.SIGTERM


def test_two_signals_at_once_are_one() -> None:
    signals = Signals()
    signals.install()
    signal.pthread_sigmask(signal.SIG_BLOCK, BOTH)
    for number in BOTH:
        signal.raise_signal(number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BOTH)
    assert signals.run(never) == 130


def test_an_ignored_signal_stays_ignored_and_a_late_one_has_no_effect() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = Signals()
    signals.install()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signals.run(seven) == 7
    signal.raise_signal(signal.SIGTERM)  # too late to do harm
    assert signals.signal == signal.SIGTERM


@pytest.mark.parametrize(
    ("number", "problem"),
    [(signal.SIGTERM, None), (signal.SIGINT, ConnectionAbortedError(errno.ECONNABORTED, ""))],
)
def test_signal_while_wait_connects(
    number: int, problem: OSError | None, sock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal arrives just before the connection, or interrupts the connect."""

    def interrupted(client: socket.socket, _: object) -> None:
        signal.raise_signal(number)
        if problem is not None:
            raise problem

    monkeypatch.setattr(socket.socket, "connect", interrupted)
    result = nitrohb_here("wait", "--cid", "16", "--api", f"unix:{sock}", "--timeout", "10")
    assert result == (128 + number, "", "")
