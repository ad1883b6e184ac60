# SPDX-License-Identifier: Apache-2.0
"""What the guests are made of, and where it is: made once, by ``nox -s enclave``, and kept.

The parts lie in one directory. ``kernel/``, ``initramfs/``, ``enclave.cpio``, ``vmlinuz`` and
``hello.eif`` are made there by the commands of docs/how-to/qemu.md themselves.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HOW_TO = PROJECT / "docs/how-to/qemu.md"

DEVICE = "vhost-device-vsock"
DEVICE_VERSION = "0.3.0"

HELLO_SHA256 = "d1b021b464f21586138eae5fc21d2f9a1adb08abd2a07f6e05ac31a58c2da141"

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "cargo": "cargo-web",
    "cc": "gcc libc6-dev",
    "cpio": "cpio",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "linux.uml": "user-mode-linux",
}
"""The programs that it takes, and the Debian packages that have them."""

KERNEL = "linux-image-cloud-amd64"
"""The Debian package that names the kernel of the guests."""

# Of Python's standard library, what a server never uses and what is large.
_LEFT_OUT = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"),
    *("config-*", "site-packages", "dist-packages", "*.opt-?.pyc", "*.a"),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the parts are."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def enclave(self) -> Path:
        """The initramfs of an enclave."""
        return self.directory / "enclave.cpio"

    @property
    def parent(self) -> Path:
        """The initramfs of a parent: an enclave's, and nitrohb with its Python."""
        return self.directory / "parent.cpio"

    @property
    def hello(self) -> Path:
        """AWS's enclave image, for aarch64."""
        return self.directory / "hello.eif"

    @property
    def device(self) -> Path:
        return self.directory / "bin" / DEVICE

    @property
    def nitrohb(self) -> Path:
        """Where nitrohb and what it needs are installed for the parent, a directory for Python."""
        return self.directory / "nitrohb"


def parts() -> Parts:
    """The parts, as the session has made them."""
    directory = os.environ.get("NITROHB_PARTS")
    assert directory, "these tests need the parts that `nox -s enclave` makes: run that"
    return Parts(Path(directory))


def commands(name: str) -> str:
    """A block of commands of the how-to, by the name in the comment before it."""
    text = HOW_TO.read_text("utf-8")
    block = re.compile(rf"^<!-- {re.escape(name)} -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    (found,) = block.findall(text)
    return str(found)


def make_guest(parts: Parts) -> None:
    """Make the kernel and the initramfs of an enclave, if the recipe is not that of last time."""
    recipe = commands("guest") + Path(__file__).with_name("init.c").read_text("utf-8")
    stamp = parts.directory / "recipe"
    if stamp.exists() and stamp.read_text("utf-8") == recipe:
        return
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=parts.directory, prefix="new-") as name:
        new = Path(name)
        run(commands("guest"), new)
        for made in ("kernel", "initramfs", "enclave.cpio", "vmlinuz"):
            replace(new / made, parts.directory / made)
    stamp.write_text(recipe, "utf-8")


def fetch_hello(parts: Parts) -> None:
    """Fetch AWS's image, unless it is there."""
    if not parts.hello.exists():
        with tempfile.TemporaryDirectory(dir=parts.directory, prefix="new-") as new:
            run(commands("image"), Path(new))
            replace(Path(new, "hello.eif"), parts.hello)
    assert hashlib.sha256(parts.hello.read_bytes()).hexdigest() == HELLO_SHA256


def run(block: str, directory: Path) -> None:
    """Run a block of the how-to."""
    env = os.environ | {"NITROHB": str(PROJECT)}
    subprocess.run(["sh", "-eu", "-c", block], cwd=directory, env=env, check=True)


def replace(new: Path, old: Path) -> None:
    if old.is_dir():
        shutil.rmtree(old)
    new.rename(old)


def make_parent(parts: Parts) -> None:
    """Make the initramfs of a parent, with this Python and what is installed for it."""
    with tempfile.TemporaryDirectory(dir=parts.directory, prefix="new-") as name:
        root = Path(name)
        shutil.copytree(parts.directory / "initramfs", root, dirs_exist_ok=True)
        shutil.copytree(parts.nitrohb, root / "nitrohb")
        copy_python(root)
        program = root / "parent"
        source = Path(__file__).with_name("parent.py").read_text("utf-8")
        program.write_text(f"#!{python()} -IS\n{source}", "utf-8")
        program.chmod(0o755)
        archive(root, parts.parent)


def python() -> Path:
    """The Python that runs in a parent: that of the session's environment, without it."""
    return Path(os.path.realpath(sys.executable))


def copy_python(root: Path) -> None:
    """Copy a Python and the libraries that it needs to where they are on this machine."""
    paths = sysconfig.get_paths(vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix})
    for directory in {Path(paths["stdlib"]), Path(paths["platstdlib"])}:
        target = within(root, directory)
        shutil.copytree(directory, target, ignore=_LEFT_OUT, dirs_exist_ok=True)
    programs = [python(), *Path(paths["platstdlib"], "lib-dynload").glob("*.so")]
    for path in {python(), *libraries(programs)}:
        target = within(root, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def within(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """The shared libraries of some programs, as the dynamic linker finds them."""
    found = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    for match in re.finditer(r"^\s+(?:\S+ => )?(/\S+) \(0x", found.stdout, re.MULTILINE):
        yield Path(match[1])


def archive(root: Path, target: Path) -> None:
    """Pack a directory as an initramfs."""
    pack = 'find . | cpio --create --format newc --quiet > "$1"'
    subprocess.run(["sh", "-eu", "-c", pack, "sh", target], cwd=root, check=True)


def contained(scratch: Path) -> list[str]:
    """What to put before a command so that it leaves nothing behind, however it ends.

    It runs in a PID namespace, which ends with its first process, and with whoever starts it; and
    what it writes to a scratch directory is in memory, on a file system that nobody else sees.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = 'mount -t tmpfs -o mode=700 none "$0" && exec "$@"'
    namespaces = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    unshare = ("unshare", *user, *namespaces, "--", "sh", "-c", mount, str(scratch))
    return [*with_parent("KILL"), *unshare]


def with_parent(signal: str) -> list[str]:
    """What to put before a command that is to get a signal when its parent ends, however it does.

    nox passes on an interrupt, but a nox that is terminated or killed leaves its commands running.
    """
    return ["setpriv", "--pdeathsig", signal]


def main(directory: str) -> None:
    """Make the guests in a directory."""
    parts = Parts(Path(directory))
    make_guest(parts)
    make_parent(parts)
    fetch_hello(parts)


if __name__ == "__main__":
    main(*sys.argv[1:])
