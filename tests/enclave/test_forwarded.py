# SPDX-License-Identifier: Apache-2.0
"""``forward-cid=1``: the connection of an unmodified init arrives on the loopback of the host.

The tests run in a kernel with that loopback. QEMU and the device are processes in it.
"""

from pathlib import Path

import pytest

from .machines import Device, Guest, Server, Vm
from .parts import HOW_TO, Parts
from .reader import Reader, has_nitro_enclave

pytestmark = pytest.mark.vsock

ONE = Vm(4, "forward-cid=1")


def test_a_forwarded_guest_has_cid_1_whatever_it_connects_to(parts: Parts, tmp_path: Path) -> None:
    """Here it connects to CID 2. The guest of the page connects to CID 3."""
    with Device(parts, tmp_path, ONE) as device, Server(tmp_path, "-l", "vsock::9000") as server:
        device.prepare(ONE.cid)
        with Guest(parts, tmp_path, ONE, cid=2) as guest:
            assert guest.outcome() == "boot: echoed"
        assert server.await_event("heartbeat")["cid"] == 1
        assert server.notes() == []


def test_the_commands_of_the_how_to(reader: Reader) -> None:
    """They run unchanged, all in one directory."""
    with reader.device("forward: device"):
        reader.boots("forward: run", "heartbeat .*vsock::9000 .*cid.1\\b")


@pytest.mark.skipif(not has_nitro_enclave(), reason="this QEMU has no -M nitro-enclave (9.2 has)")
def test_an_eif_on_the_machine_of_a_nitro_enclave(reader: Reader) -> None:
    reader.makes_an_eif()
    with reader.device("forward: device"), reader.runs("eif: run") as run:
        run.words.await_line("heartbeat .*vsock::9000 .*cid.1\\b")
        run.words.await_line("^init: boot: echoed")
        assert run.ends() == 0


def test_the_kernel_has_the_module_that_the_how_to_loads() -> None:
    assert "`sudo modprobe vsock_loopback`" in HOW_TO.read_text("utf-8")
    modules = Path("/proc/modules").read_text("ascii").splitlines()
    assert "vsock_loopback" in {line.split()[0] for line in modules}
