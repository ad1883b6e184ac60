# SPDX-License-Identifier: Apache-2.0
"""Where the tests of the console script listen."""

from pathlib import Path

import pytest


@pytest.fixture
def sock(tmp_path: Path) -> Path:
    """A path for a socket file; ``f"unix:{sock}"`` is its address."""
    return tmp_path / "s"
