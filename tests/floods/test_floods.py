# SPDX-License-Identifier: Apache-2.0
"""Floods and faults on a Unix socket: see :mod:`tests.floods`."""

from pathlib import Path

import pytest

from .bed import Bed
from .scenarios import INSIDE_ONLY, SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each not in INSIDE_ONLY])
def test_the_correct_enclave_is_answered(scenario: Scenario, tmp_path: Path) -> None:
    scenario(Bed(f"unix:{tmp_path}/s"))
    assert not (tmp_path / "s").exists()
