# SPDX-License-Identifier: Apache-2.0
"""Fifty launches at once on AF_VSOCK, where all clients have one CID."""

import pytest

from nitrohb import CID_ANY, VsockAddress
from tests.floods.launches import LAUNCHES, race

pytestmark = pytest.mark.vsock


async def test_every_launcher_gets_its_own() -> None:
    addresses = [VsockAddress(CID_ANY, 9000 + number) for number in range(LAUNCHES)]
    await race(addresses, [f"vsock:1:{address.port}" for address in addresses])
