# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the tests of the console script. They restore this process after each test."""

import ctypes
import errno
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from nitrohb import Listener
from nitrohb.cli.output import Output

SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


@pytest.fixture(autouse=True)
def _this_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what main() leaves set in this process: signal handlers and the subreaper."""
    # Here trio's threads outlive a command: the next one would inherit the signals that they block.
    monkeypatch.setattr(signal, "valid_signals", tuple)
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCHLD)}
    yield
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # drops a signal that is pending, but blocked
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    for number, handler in before.items():
        signal.signal(number, handler)
    ctypes.CDLL(None).prctl(36, ctypes.c_ulong(0))  # PR_SET_CHILD_SUBREAPER


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    """A path for a socket file; ``f"unix:{sock}"`` is its address."""
    return tmp_path / "s"


@pytest.fixture
def _broken_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every listening socket fail."""

    def fail(_: Listener) -> NoReturn:
        raise OSError(errno.ENOTSOCK, "broken")

    monkeypatch.setattr(Listener, "accept", fail)


@pytest.fixture
def output(capfd: pytest.CaptureFixture[str]) -> Iterator[Output]:
    """An output whose lines go to capfd."""
    with closing(Output()) as output:
        yield output
