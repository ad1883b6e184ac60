# SPDX-License-Identifier: Apache-2.0
"""Listen addresses for a server."""

from pathlib import Path

import pytest

from tests.support import PeersWithCids


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


@pytest.fixture
def vsock(tmp_path: Path) -> PeersWithCids:
    return PeersWithCids(tmp_path / "vsock")
