# SPDX-License-Identifier: Apache-2.0
"""Where the tests of the console script listen."""

import ctypes
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """main() handles signals to the end of its process, which here is pytest's."""
    to_end = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = (*to_end, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@pytest.fixture(autouse=True)
def _orphans_are_not_ours() -> Iterator[None]:
    """A process that has run a command adopts orphans to its end, which here is pytest's."""
    yield
    ctypes.CDLL(None).prctl(36, ctypes.c_ulong(0))  # PR_SET_CHILD_SUBREAPER


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    """A path for a socket file; ``f"unix:{sock}"`` is its address."""
    return tmp_path / "s"
