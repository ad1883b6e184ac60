# SPDX-License-Identifier: Apache-2.0
"""Where the tests of the console script listen."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    """main() handles signals to the end of its process, which here is pytest's."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    """A path for a socket file; ``f"unix:{sock}"`` is its address."""
    return tmp_path / "s"
