# SPDX-License-Identifier: Apache-2.0
"""The parts of the guests. ``nox -s enclave`` makes them once, and keeps them.

They are in one directory: AWS's ``hello.eif``, and for each machine and kernel a directory with
``enclave.cpio`` and ``vmlinuz``. The commands are those of docs/how-to/qemu.md.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests import debian

PROJECT = Path(__file__).resolve().parents[2]
HOW_TO = PROJECT / "docs/how-to/qemu.md"
EXAMPLE = PROJECT / "examples/boot_eif.py"
MAKE_GUEST = PROJECT / "examples/make_guest.sh"

DEVICE = "vhost-device-vsock"
CRATES = {DEVICE: "0.3.0", "eif_build": "0.2.1"}
"""Programs from Rust's registry, and their versions."""

HELLO_SHA256 = "d1b021b464f21586138eae5fc21d2f9a1adb08abd2a07f6e05ac31a58c2da141"

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "cargo": "cargo-web",
    "cc": "gcc libc6-dev",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "cpio": "cpio",
    "pkg-config": "pkg-config libssl-dev",
    "xzcat": "xz-utils",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "linux.uml": "user-mode-linux",
}
"""The programs that the tests need, and their Debian packages."""

KERNEL = "linux-image-cloud-amd64"
"""The Debian package that names the kernel of the guests."""

DEBIAN_12 = "bookworm"
NEWER = ("trixie", "trixie-backports")
"""The suites of Debian that have newer kernels than Debian 12: 6.12, and 7.3 or later."""

PYTHON = "3.11"
"""The Python of parents: Debian 12's."""

# This Python must be of the same version, or the guest cannot use what it compiles.
_UNPACK_PYTHON = f"""\
apt-get install --download-only -q -y --no-install-recommends python{PYTHON}
for package in ../apt/archives/*.deb; do dpkg-deb -x "$package" python; done
rm -r python/usr/share
python -m compileall -q python/usr/lib/python{PYTHON}
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that QEMU emulates.

    Attributes:
        arch: What Debian calls its architecture.
        cc: The compiler for it.
        qemu: QEMU's program, and what makes it that machine.
        console: What its kernel calls the first serial line.
    """

    arch: str
    cc: str
    qemu: tuple[str, ...]
    console: str


X86_64 = Machine(
    arch="amd64",
    cc="cc",
    qemu=("qemu-system-x86_64", "-M", "q35,memory-backend=mem", "-cpu", "max"),
    console="ttyS0",
)
AARCH64 = Machine(  # with the processor of AWS's Graviton 2
    arch="arm64",
    cc="aarch64-linux-gnu-gcc",
    qemu=("qemu-system-aarch64", "-M", "virt,memory-backend=mem", "-cpu", "neoverse-n1"),
    console="ttyAMA0",
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts are.

    Attributes:
        suite: The Debian suite of the kernel that the guests boot; "" for that of this machine.
        machine: What they run on.
    """

    directory: Path
    suite: str = ""
    machine: Machine = X86_64

    @property
    def guest(self) -> Path:
        """The directory of the parts that depend on the kernel."""
        return self.directory / self.machine.arch / self.suite

    @property
    def kernel(self) -> Path:
        return self.guest / "vmlinuz"

    @property
    def enclave(self) -> Path:
        """The initramfs of an enclave."""
        return self.guest / "enclave.cpio"

    @property
    def parent(self) -> Path:
        """The initramfs of a parent: that of an enclave, with Python and nitrohb."""
        return self.guest / "parent.cpio"

    @property
    def hello(self) -> Path:
        """AWS's enclave image, for aarch64."""
        return self.directory / "hello.eif"

    @property
    def device(self) -> Path:
        return self.directory / "bin" / DEVICE

    @property
    def nitrohb(self) -> Path:
        """The directory with nitrohb and its dependencies, for the parent."""
        return self.directory / "nitrohb"


def parts() -> Parts:
    """The parts that the session has made, with the kernel that ``NITROHB_KERNEL`` names."""
    directory = os.environ.get("NITROHB_PARTS")
    assert directory, "these tests need the parts that `nox -s enclave` makes: run that"
    suite = os.environ.get("NITROHB_KERNEL", "")
    assert suite in ("", *NEWER), f"NITROHB_KERNEL is one of {NEWER}"
    return Parts(Path(directory), suite)


def commands(name: str) -> str:
    """A block of commands of the page, by its name after ```sh."""
    text = HOW_TO.read_text("utf-8")
    block = re.compile(rf"^```sh {re.escape(name)}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    (found,) = block.findall(text)
    return str(found)


def make_guest(parts: Parts) -> None:
    """Make the kernel and the initramfs of an enclave."""
    recipe = f"export ARCH={parts.machine.arch} CC={parts.machine.cc}\n{commands('guest')}"
    make(parts, recipe, parts.enclave, parts.kernel)


def make(parts: Parts, recipe: str, *wanted: Path) -> None:
    """Make some parts, if the recipe has changed since the last time."""
    stamp = wanted[0].with_name(f"{wanted[0].name}.recipe")
    sources = (MAKE_GUEST, Path(__file__).with_name("init.c"))
    text = recipe + "".join(source.read_text("utf-8") for source in sources)
    if stamp.exists() and stamp.read_text("utf-8") == text:
        return
    stamp.unlink(missing_ok=True)
    stamp.parent.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory(dir=parts.directory, prefix="new-") as name:
        new = Path(name, "guest")
        new.mkdir()
        env = os.environ | {"NITROHB": str(PROJECT)}
        if parts.suite:
            env |= debian.apt_of(parts.suite, parts.machine.arch, Path(name, "apt"))
        subprocess.run(["sh", "-eu", "-c", recipe], cwd=new, env=env, check=True)
        for made in wanted:
            if made.is_dir():
                shutil.rmtree(made)
            (new / made.name).rename(made)
    stamp.write_text(text, "utf-8")


def fetch_hello(parts: Parts) -> None:
    """Fetch AWS's image."""
    make(parts, commands("image"), parts.hello)
    assert hashlib.sha256(parts.hello.read_bytes()).hexdigest() == HELLO_SHA256


def make_parents(every: Iterable[Parts]) -> None:
    """Make the initramfs of the parents of a machine, with Python and nitrohb."""
    first, *_ = every
    python = Parts(first.directory, DEBIAN_12, first.machine)
    unpacked = first.directory / first.machine.arch / "python"
    make(python, _UNPACK_PYTHON, unpacked)
    with tempfile.TemporaryDirectory(dir=first.directory, prefix="new-") as name:
        root = Path(name, "root")
        shutil.copytree(unpacked, root, symlinks=True)
        shutil.copytree(first.nitrohb, root / "nitrohb")
        program = root / "parent"
        source = Path(__file__).with_name("parent.py").read_text("utf-8")
        program.write_text(f"#!/usr/bin/python{PYTHON} -IS\n{source}", "utf-8")
        program.chmod(0o755)
        added = Path(name, "added.cpio")
        archive(root, added)
        for parts in every:  # the kernel unpacks one archive after the other
            parts.parent.write_bytes(parts.enclave.read_bytes() + added.read_bytes())


def archive(root: Path, target: Path) -> None:
    """Pack a directory as an initramfs."""
    pack = 'find . | cpio --create --format newc --quiet > "$1"'
    subprocess.run(["sh", "-eu", "-c", pack, "sh", target], cwd=root, check=True)


def contained(scratch: Path) -> list[str]:
    """A prefix for a command that must leave nothing behind, however it ends.

    The command runs in a PID namespace, which ends with its first process and with this process.
    Its scratch directory is in memory, on a file system that no other process sees.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = 'mount -t tmpfs -o mode=700 none "$0" && exec "$@"'
    namespaces = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    unshare = ("unshare", *user, *namespaces, "--", "sh", "-c", mount, str(scratch))
    return [*with_parent("KILL"), *unshare]


def with_parent(signal: str) -> list[str]:
    """A prefix for a command that must get a signal when its parent ends.

    nox passes on an interrupt. But if nox gets SIGTERM or SIGKILL, its commands keep running.
    """
    return ["setpriv", "--pdeathsig", signal]


def main(directory: str) -> None:
    """Make the guests in a directory."""
    x86_64 = [Parts(Path(directory), suite) for suite in ("", *NEWER)]
    aarch64 = [Parts(Path(directory), DEBIAN_12, AARCH64)]
    for every in (x86_64, aarch64):
        for parts in every:
            make_guest(parts)
        make_parents(every)
    fetch_hello(x86_64[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
