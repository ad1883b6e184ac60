# SPDX-License-Identifier: Apache-2.0
"""A reader of docs/how-to/qemu.md, who runs command after command."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .machines import Program, until
from .parts import PROJECT, Parts, commands

_CMDLINE = "console=ttyS0 quiet panic=-1 reboot=t tsc_early_khz=2000000 no_timer_check hb_cid=3"
EIF_BUILD = (
    *("eif_build", "--kernel", "vmlinuz", "--ramdisk", "enclave.cpio"),
    *("--output", "guest.eif", "--cmdline", _CMDLINE),
)


class Reader:
    """Runs blocks of the page in a directory that already has the guest."""

    def __init__(self, parts: Parts, directory: Path) -> None:
        self._directory = directory
        for part in (parts.kernel, parts.enclave, parts.hello):
            (directory / part.name).symlink_to(part)
        programs = (Path(sys.executable).parent, parts.device.parent)
        path = os.pathsep.join([*map(str, programs), os.environ["PATH"]])
        self._env = {"PATH": path, "NITROHB": str(PROJECT)}

    @contextmanager
    def device(self, name: str) -> Generator[Program]:
        """Run the block that starts a device, until the end of this block."""
        with self.runs(name) as device:
            # A person would use ls.
            until((self._directory / "vhost4.socket").exists, "the device's socket")
            yield device

    def boots(self, name: str, heartbeat: str) -> None:
        """Run a block that boots a guest. nitrohb answers, and the guest gets the answer."""
        with self.runs(name) as run:
            run.words.await_line(heartbeat)
            assert run.ends() == 0
        assert "init: boot: echoed" in (self._directory / "console.log").read_text()

    def makes_a_parent(self) -> None:
        """Run the block that builds a parent, with Python as the README installs it."""
        recipe = (
            "python3 -m venv venv; mkdir initramfs;"
            " (cd initramfs && cpio -i --quiet) < enclave.cpio;"
            f" export PATH=$PWD/venv/bin:$PATH NITROHB={PROJECT}; {commands('siblings: parent')}"
        )
        env = os.environ | {"PATH": f"/usr/bin:{os.environ['PATH']}"}
        subprocess.run(["sh", "-eu", "-c", recipe], cwd=self._directory, env=env, check=True)

    def makes_an_eif(self) -> None:
        """Make guest.eif with AWS's eif_build, from our kernel and our init."""
        subprocess.run(EIF_BUILD, cwd=self._directory, env=self._env, check=True)

    @contextmanager
    def runs(self, name: str) -> Generator[Program]:
        """Run a block until the end of this block."""
        command = ("sh", "-eu", "-c", f"exec {commands(name)}")
        with Program(*command, cwd=self._directory, env=self._env) as program:
            yield program


def has_nitro_enclave() -> bool:
    """Whether QEMU has the machine that boots an EIF: 9.2 and newer can be built with it."""
    command = ["qemu-system-x86_64", "-M", "help"]
    machines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "\nnitro-enclave " in machines
