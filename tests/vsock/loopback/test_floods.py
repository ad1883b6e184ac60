# SPDX-License-Identifier: Apache-2.0
"""Floods and faults on AF_VSOCK: see :mod:`tests.floods`.

All clients have the CID of the loopback, and are one peer. The enclave is answered because it sends
its byte at once.
"""

import pytest

from tests.floods.bed import Bed
from tests.floods.scenarios import ANY_SOCKET, SCENARIOS, Scenario

pytestmark = pytest.mark.vsock


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each not in ANY_SOCKET])
def test_the_correct_enclave_is_answered(scenario: Scenario) -> None:
    scenario(Bed("vsock::9000"))
