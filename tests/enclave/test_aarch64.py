# SPDX-License-Identifier: Apache-2.0
"""aarch64: nitrohb runs on it as the parent, beside an enclave of the same architecture."""

from pathlib import Path

from .machines import NITROHB, Device, Guest, Parent, hybrid
from .parts import AARCH64, DEBIAN_12, Parts, parts


def test_an_enclave_boots_beside_its_parent(tmp_path: Path) -> None:
    arm = Parts(parts().directory, DEBIAN_12, AARCH64)
    enclave = hybrid(16)
    with Device(arm, tmp_path, hybrid(Parent.CID), enclave) as device:
        device.prepare(Parent.CID)
        with Parent(arm, tmp_path) as parent:
            doctor = parent.start(*NITROHB, "doctor")
            doctor.out.await_line("local CID: CID 3$")
            assert doctor.ends() == 0
            device.prepare(enclave.cid)
            with parent.nitrohb("--allow-cid", "16") as server:
                with Guest(arm, tmp_path, enclave) as guest:
                    assert guest.outcome() == "boot: echoed"
                assert server.ends() == 0
                (beat,) = server.events("heartbeat")
                assert (beat["cid"], beat["echoed"]) == (enclave.cid, True)
                assert server.err.lines == []
