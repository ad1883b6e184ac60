# SPDX-License-Identifier: Apache-2.0
"""Listen addresses for a server, and a clock."""

from pathlib import Path

import pytest
from trio.testing import MockClock

from tests.support import PeersWithCids


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


@pytest.fixture
def vsock(tmp_path: Path) -> PeersWithCids:
    return PeersWithCids(tmp_path / "vsock")


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    return autojump_clock
