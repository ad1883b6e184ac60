# SPDX-License-Identifier: Apache-2.0
"""``forward-cid=1``: an unmodified init's connection arrives on the host's AF_VSOCK loopback.

All of it runs in a kernel that has that loopback: QEMU and the device are processes in there.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .eif import write_eif
from .local import Server
from .machines import NITROHB, Device, Guest, Program, Vm
from .parts import Parts, commands
from .reader import Reader, has_nitro_enclave

pytestmark = pytest.mark.vsock

ONE = Vm(4, "forward-cid=1")
LISTEN = ("-l", "vsock::9000")
ALIKE = "every VM that is forwarded over the loopback"

Boot = Callable[..., str]


@pytest.fixture
def device(parts: Parts, tmp_path: Path) -> Iterator[Device]:
    with Device(parts, tmp_path, ONE) as device:
        yield device


@pytest.fixture
def boot(parts: Parts, tmp_path: Path, device: Device) -> Boot:
    """Boots a guest, and returns what came of it."""

    def boot(**arguments: Any) -> str:
        device.prepare(ONE.cid)
        with Guest(parts, tmp_path, ONE, **arguments) as guest:
            return guest.outcome()

    return boot


def test_every_guest_has_cid_1(tmp_path: Path, boot: Boot) -> None:
    with Server(tmp_path, *LISTEN) as server:
        assert boot(cid=3) == "boot: echoed"
        assert boot(cid=2) == "boot: echoed"
        assert [server.await_event("heartbeat", nth)["cid"] for nth in (1, 2)] == [1, 1]
        assert server.notes() == []


def test_an_allow_list_that_cannot_work_says_so_once(tmp_path: Path, boot: Boot) -> None:
    with Server(tmp_path, *LISTEN, "--allow-cid", "4") as server:
        assert boot(cid=3, count=2) == "boot: end"
        refused = [server.await_event("rejected", nth) for nth in (1, 2)]
        assert [(event["cid"], event["reason"]) for event in refused] == [(1, "cid")] * 2
        assert sum(ALIKE in note for note in server.notes()) == 1


def test_a_wait_for_a_cid_that_cannot_work_says_so_once(tmp_path: Path, boot: Boot) -> None:
    api = "unix:api.sock"
    # Longer than a guest takes to boot here, even on a busy machine.
    wait = (*NITROHB, "wait", "--api", api, "--cid", "4", "--timeout", "90")
    with (
        Server(tmp_path, *LISTEN, "--api", api) as server,
        Program(sys.executable, *wait, cwd=tmp_path) as waiting,
    ):
        # For so long that the one who waits has surely come in between.
        assert boot(cid=3, count=40, late=250) == "boot: echoed"
        assert waiting.ends() == 124
        said = [line.text for line in waiting.words.lines]
        assert any(ALIKE in line for line in said), said
        assert sum(ALIKE in note for note in server.notes()) == 1


def test_the_commands_of_the_how_to(reader: Reader) -> None:
    """They are run as they stand, all in one directory."""
    with reader.serves("forward") as server:
        with reader.runs("forward: guest") as guest:
            guest.words.await_line("^init: boot: echoed")
            assert guest.ends() == 0
        server.words.await_line("heartbeat .*vsock::9000 .*cid.1\\b")


@pytest.mark.skipif(not has_nitro_enclave(), reason="this QEMU has no -M nitro-enclave (9.2 has)")
def test_an_eif_on_the_machine_of_a_nitro_enclave(
    parts: Parts, tmp_path: Path, reader: Reader
) -> None:
    # That machine has no timer that tells how fast its clock is; and what is said before the
    # console's driver runs, helps nobody.
    # And on a busy machine it sees no tick in time, without which it panics.
    clock = "tsc_early_khz=2000000 no_timer_check"
    cmdline = f"console=ttyS0 quiet panic=-1 reboot=t {clock} hb_cid=3"
    write_eif(tmp_path / "hello.eif", parts.kernel, parts.enclave, cmdline)
    with reader.serves("forward") as server:
        # Debian's kernel finds that machine's devices by ACPI only.
        with reader.runs("forward: eif", ("id=hello", "id=hello,acpi=on")) as guest:
            guest.words.await_line("^init: boot: echoed")
            assert guest.ends() == 0
        server.words.await_line("heartbeat .*vsock::9000 .*cid.1\\b")


def test_the_kernel_has_the_module_that_the_how_to_loads() -> None:
    assert commands("forward: module") == "sudo modprobe vsock_loopback\n"
    modules = Path("/proc/modules").read_text("ascii").splitlines()
    assert "vsock_loopback" in {line.split()[0] for line in modules}
