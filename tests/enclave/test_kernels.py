# SPDX-License-Identifier: Apache-2.0
"""A parent, its enclave and a guest on a Unix socket, with each newer kernel: one boot of each.

``NITROHB_KERNEL`` runs all other tests with one of them, too.
"""

from pathlib import Path

import pytest

from . import parts as find
from .machines import Device, Guest, Parent, Server, hybrid
from .parts import NEWER, Parts


@pytest.mark.parametrize("suite", NEWER)
def test_guests_with_a_newer_kernel(suite: str, tmp_path: Path) -> None:
    parts = Parts(find.parts().directory, suite)
    enclave, other = hybrid(16), hybrid(4)
    with (
        Device(parts, tmp_path, hybrid(Parent.CID), enclave, other) as device,
        Server(tmp_path, "-l", "hybrid:vm4.vsock:9000") as server,
    ):
        for cid in (Parent.CID, enclave.cid, other.cid):
            device.prepare(cid)
        with Guest(parts, tmp_path, other, cid=2) as guest, Parent(parts, tmp_path) as parent:
            with parent.nitrohb() as sibling, Guest(parts, tmp_path, enclave) as booted:
                assert booted.outcome() == "boot: echoed"
                assert sibling.await_event("heartbeat")["cid"] == enclave.cid
                assert sibling.ends() == 0
                assert sibling.err.lines == []
            assert guest.outcome() == "boot: echoed"
        server.await_event("heartbeat")
