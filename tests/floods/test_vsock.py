# SPDX-License-Identifier: Apache-2.0
"""Floods and faults on AF_VSOCK, shortened, inside User Mode Linux; see :mod:`tests.floods`.

All clients come from the loopback's CID there, and are one peer. So the honest enclave has no
account of its own: it is answered because it speaks at once.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from .bed import Bed
from .scenarios import INSIDE_ONLY, SCENARIOS

pytestmark = pytest.mark.vsock


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_on_vsock(scenario: Callable[[Bed], None]) -> None:
    scenario(Bed("vsock::9000", full=False))


@pytest.mark.parametrize("scenario", INSIDE_ONLY)
def test_on_a_unix_socket(scenario: Callable[[Bed], None], tmp_path: Path) -> None:
    scenario(Bed(f"unix:{tmp_path}/s", full=False))
