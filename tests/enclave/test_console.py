# SPDX-License-Identifier: Apache-2.0
"""The console of real guests that have no heartbeat: ``nitrohb run --console`` prints its end."""

import re
import sys
from pathlib import Path

from .machines import NITROHB, PATIENCE, Device, Program, hybrid
from .parts import Parts

VM = hybrid(4)
APPEND = "console=ttyS0 panic=-1 no_timer_check"

# QEMU ends with 0 when the guest does, as if it had left a VMM in the background.
FAILS = ("sh", "-c", '"$@"; exit 1', "sh")


def said_by(parts: Parts, directory: Path, *more: str) -> list[str]:
    """What nitrohb says when QEMU, whose serial port is a socket, has ended without a heartbeat."""
    qemu = (
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-M", "q35,memory-backend=mem", "-accel", "tcg", "-cpu", "max", "-m", "128M"),
        *("-object", "memory-backend-memfd,id=mem,size=128M,share=on", "-display", "none"),
        *("-chardev", "socket,id=serial,path=serial,server=on,wait=off"),
        *("-serial", "chardev:serial", "-kernel", str(parts.kernel), *more),
    )
    console = ("--console", "unix:serial", "--console-log", "log")
    options = ("run", "--quiet", "-l", "hybrid:vm4.vsock:9000", *console)
    limit = ("--timeout", f"{PATIENCE:g}", "--")
    program = Program(sys.executable, *NITROHB, *options, *limit, *FAILS, *qemu, cwd=directory)
    with program as nitrohb:
        assert nitrohb.ends() == 125
        return [line.text for line in nitrohb.words.lines]


def test_a_kernel_that_panics(parts: Parts, tmp_path: Path) -> None:
    """It has no initramfs. Its first lines are in the file, its last ones are printed."""
    said = said_by(parts, tmp_path, "-append", APPEND)
    title = said.index("nitrohb: the last lines of the console at unix:serial:")
    assert "nobody connected" in said[title - 1]
    assert any(re.match(r"\| .*Kernel panic - not syncing: VFS", line) for line in said[title:])
    assert b"Linux version" in (tmp_path / "log").read_bytes()


def test_an_init_that_finds_no_listener(parts: Parts, tmp_path: Path) -> None:
    """It connects to CID 3, from where its device takes it nowhere."""
    chardev = ("-chardev", f"socket,id=vsock,path={VM.socket}")
    vsock = (*chardev, "-device", "vhost-user-vsock-pci,chardev=vsock")
    initramfs = ("-initrd", str(parts.enclave), "-append", f"{APPEND} quiet hb_cid=3")
    with Device(parts, tmp_path, VM) as device:
        device.prepare(VM.cid)
        said = said_by(parts, tmp_path, *vsock, *initramfs)
    assert any(line.startswith("| init: connect: ") for line in said)
