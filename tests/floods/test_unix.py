# SPDX-License-Identifier: Apache-2.0
"""Floods and faults on a Unix socket of this machine, shortened; see :mod:`tests.floods`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .bed import Bed
from .scenarios import INSIDE_ONLY, SCENARIOS


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each not in INSIDE_ONLY])
def test_on_a_unix_socket(scenario: Callable[[Bed], None], tmp_path: Path) -> None:
    scenario(Bed(f"unix:{tmp_path}/s", full=False))
    assert not (tmp_path / "s").exists()
