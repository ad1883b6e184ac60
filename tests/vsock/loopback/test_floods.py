# SPDX-License-Identifier: Apache-2.0
"""Floods and faults on AF_VSOCK; see :mod:`tests.floods`.

All clients come from the loopback's CID, and are one peer. So the honest enclave has no account of
its own: it is answered because it speaks at once.
"""

import pytest

from tests.floods.bed import Bed
from tests.floods.scenarios import ANY_SOCKET, SCENARIOS, Scenario

pytestmark = pytest.mark.vsock


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each not in ANY_SOCKET])
def test_the_honest_enclave_is_answered(scenario: Scenario) -> None:
    scenario(Bed("vsock::9000"))
