# SPDX-License-Identifier: Apache-2.0
"""AWS's own enclave image boots, with the kernel and init of AWS's tools.

examples/boot_eif.py boots it. Beside a parent guest it has its own CID. In a kernel that
has the AF_VSOCK loopback, the program answers by itself.
"""

import json
import os
import re
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .conftest import DOOMED, Siblings
from .machines import NITROHB, Device, Parent, Program, Vm, hybrid
from .parts import AARCH64, DEBIAN_12, EXAMPLE, HOW_TO, Parts
from .reader import Reader

BOOT_EIF = (sys.executable, EXAMPLE)
CID = 16
# A launcher for which every end of QEMU is a failure.
FAILS = ("sh", "-c", '"$@"; exit 1', "sh")
PANIC = r"Kernel panic - not syncing: Attempted to kill init!"
HELLO = r"^Hello \(from a nitro enclave!\)$"


class Boot(Program):
    """examples/boot_eif.py, perhaps behind another command."""

    def __init__(self, directory: Path, *args: str | Path, before: Sequence[str] = ()) -> None:
        (directory / "tmp").mkdir(exist_ok=True)
        # Its lines share a pipe with the console, so each must be written at once.
        env = {"TMPDIR": str(directory / "tmp"), "PYTHONUNBUFFERED": ""}
        super().__init__(*before, *BOOT_EIF, *args, cwd=directory, env=env)
        self._directory = directory

    def __exit__(self, *_: object) -> None:
        self.popen.terminate()  # after SIGKILL, QEMU would go on
        self.popen.wait()
        super().__exit__()

    def ends(self) -> int:
        """Wait for the end of the program and of its processes, and check that nothing is left."""
        code = super().ends()
        assert list(self._directory.glob("tmp/*")) == []
        return code


def beside_parent(siblings: Siblings, image: Path, cid: int = CID) -> Boot:
    """Boot an image beside the parent of some siblings."""
    siblings.device.prepare(cid)
    return Boot(siblings.directory, "--vhost-user", hybrid(cid).socket, image)


def test_it_boots_beside_a_parent(
    parts: Parts, siblings: Siblings, record_property: Callable[[str, object], None]
) -> None:
    with siblings.parent.nitrohb() as server, beside_parent(siblings, parts.hello) as boot:
        record_property("the console of AWS's image", boot.words.await_line(HELLO).text)
        assert boot.ends() == 0
        assert server.ends() == 0
        (beat,) = server.events("heartbeat")
        assert (beat["cid"], beat["echoed"]) == (CID, True)


def test_it_boots_beside_a_parent_on_aarch64(parts: Parts, tmp_path: Path) -> None:
    """Parent and enclave are for aarch64, as the image of AWS is. nitrohb runs there, too."""
    arm = Parts(parts.directory, DEBIAN_12, AARCH64)
    with Device(arm, tmp_path, hybrid(Parent.CID), hybrid(CID)) as device:
        device.prepare(Parent.CID)
        with Parent(arm, tmp_path) as parent:
            doctor = parent.start(*NITROHB, "doctor")
            doctor.out.await_line("reach vsock::9000: .*sibling VMs")
            assert doctor.ends() == 0
            with parent.nitrohb("--allow-cid", str(CID)) as server:
                with beside_parent(Siblings(device, parent, tmp_path), parts.hello) as boot:
                    boot.words.await_line(HELLO)
                    assert boot.ends() == 0
                assert server.ends() == 0
                (beat,) = server.events("heartbeat")
                assert (beat["cid"], beat["echoed"]) == (CID, True)
                assert server.err.lines == []


def test_its_init_dies_if_its_cid_is_not_allowed(parts: Parts, siblings: Siblings) -> None:
    with siblings.parent.nitrohb("--keep", "--allow-cid", "17") as server:
        with beside_parent(siblings, parts.hello, DOOMED) as boot:
            boot.words.await_line(PANIC)
            assert boot.ends() == 0
        assert server.await_peer("rejected", DOOMED)["reason"] == "cid"
        assert server.events("heartbeat") == []


def test_its_init_dies_if_nobody_listens(parts: Parts, tmp_path: Path) -> None:
    """It connects to CID 3, but the device passes only CID 2 to the Unix socket.

    QEMU exits with 0 even after a panic, like a launcher that leaves a VMM in the background.
    """
    example = runpy.run_path(str(EXAMPLE))
    is_arm, memory, sections = example["read_eif"](str(parts.hello))
    (tmp_path / "kernel").write_bytes(sections[example["KERNEL"]])
    (tmp_path / "ramdisk").write_bytes(sections[example["RAMDISK"]])
    words = example["vmm"](is_arm, memory, sections[example["COMMAND_LINE"]].decode())
    serial = "socket,path=serial,server=on,wait=off"
    qemu = [word.replace("stdio", serial) for word in words]
    (tmp_path / "vhost.socket").symlink_to(hybrid(CID).socket)
    listen = ("--quiet", "-l", f"hybrid:vm{CID}.vsock:9000", "--timeout", "40")
    console = ("--console", "unix:serial", "--console-log", "log", "--")
    run = (sys.executable, *NITROHB, "run", *listen, *console, *qemu)
    with Device(parts, tmp_path, hybrid(CID)) as device:
        device.prepare(CID)
        with Program(*run, cwd=tmp_path) as nitrohb:
            assert nitrohb.ends() == 124
            said = [line.text for line in nitrohb.words.lines]
    title = said.index("nitrohb: the last lines of the console at unix:serial:")
    assert any("the command ended with status 0; waiting" in line for line in said)
    assert any("within 40 s: nobody connected" in line for line in said[:title])
    tail = "\n".join(said[title:])
    assert re.search(r"^\| connect: Connection timed out$", tail, re.MULTILINE)
    assert re.search(rf"^\| .*{PANIC}", tail, re.MULTILINE)
    assert re.search(PANIC, (tmp_path / "log").read_text())


def test_an_image_for_x86_64_boots_too(siblings: Siblings, reader: Reader, tmp_path: Path) -> None:
    reader.makes_an_eif()
    image = tmp_path / "guest.eif"
    with siblings.parent.nitrohb() as server, beside_parent(siblings, image) as boot:
        boot.words.await_line("^init: boot: echoed")
        assert boot.ends() == 0
        assert server.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(parts: Parts, tmp_path: Path, number: signal.Signals) -> None:
    with Device(parts, tmp_path, hybrid(CID)) as device:
        device.prepare(CID)
        with Boot(tmp_path, "--vhost-user", hybrid(CID).socket, parts.hello) as boot:
            boot.words.await_line("nsm: loading")
            boot.send(number)
            boot.words.await_line(f"boot_eif: {number.name}$")
            assert boot.ends() == 128 + number


@pytest.mark.vsock
def test_the_steps_of_the_page(reader: Reader) -> None:
    shown = re.search(r"^```text\n(.*)\n(Hello.*)\n```$", HOW_TO.read_text("utf-8"), re.MULTILINE)
    assert shown is not None
    assert re.match(HELLO, shown[2])
    with reader.runs("image: boot") as boot:
        beat, printed = json.loads(shown[1]), json.loads(boot.words.await_line('"heartbeat"').text)
        assert beat.keys() == printed.keys()
        assert all(beat[name] == printed[name] for name in ("address", "cid", "byte", "echoed"))
        boot.words.await_line(HELLO)
        assert boot.ends() == 0


@pytest.mark.vsock
def test_its_launcher_fails_if_its_cid_is_not_allowed(parts: Parts, tmp_path: Path) -> None:
    vm = Vm(CID, "forward-cid=1")
    options = ("-l", "vsock::9000", "--allow-cid", "17", "--")
    run = (sys.executable, *NITROHB, "run", *options, *FAILS)
    with Device(parts, tmp_path, vm) as device:
        device.prepare(CID)
        with Boot(tmp_path, "--vhost-user", vm.socket, parts.hello, before=run) as boot:
            boot.words.await_line("1 came from CID 1, which is not allowed")
            assert boot.ends() == 125


@pytest.mark.vsock
def test_its_time_limit(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(parts.device.parent), prepend=os.pathsep)
    with Boot(tmp_path, "--timeout", "2", parts.hello) as boot:
        boot.words.await_line("boot_eif: no heartbeat within 2 s$")
        assert boot.ends() == 124
