# SPDX-License-Identifier: Apache-2.0
"""Fifty launches at once on the hybrid sockets of fifty VMs: see :mod:`.launches`."""

from pathlib import Path

from nitrohb import HybridAddress

from .launches import LAUNCHES, race


async def test_every_launcher_gets_its_own(tmp_path: Path) -> None:
    addresses = [HybridAddress(f"{tmp_path}/vm{number}", 9000) for number in range(LAUNCHES)]
    await race(addresses, [f"unix:{address.path}" for address in addresses])
