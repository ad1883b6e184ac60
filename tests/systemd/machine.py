# SPDX-License-Identifier: Apache-2.0
"""A machine that boots a real systemd: QEMU without KVM, Debian's kernel, a minimal Debian.

The whole tree is an initramfs, so the machine needs no disk. It has two archives: the packages of
Debian, which take a while and stay the same (:func:`build`), and files of a test (:func:`boot`).
"""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAMS: Final = {
    "cpio": "cpio",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-x86_64": "qemu-system-x86",
}
"""What this needs, and the Debian packages that have it."""

_SUITE: Final = "bookworm"
_PACKAGES: Final = "systemd,systemd-sysv,python3,kmod,passwd"
_EXCLUDED: Final = tuple(f"/usr/share/{name}/*" for name in ("doc", "i18n", "locale", "man"))
_HOOK: Final = Path(__file__).with_name("pack.sh")

_MEMORY: Final = "1G"
_COMMAND_LINE: Final = (
    # No tsc: under load, its calibration against an emulated clock can fail.
    "console=ttyS0 quiet panic=-1 mitigations=off clocksource=hpet tsc=unstable"
    " rdinit=/lib/systemd/systemd systemd.unit={unit}"
    " systemd.show_status=yes"
)

# The kernel unpacks archives one after the other. Every user of the guest may read the added files.
_APPEND: Final = (
    'cp "$0" "$1" && chmod -R u=rwX,go=rX . &&'
    ' find . | cpio --create --format newc --owner 0:0 --quiet >> "$1"'
)


@dataclass(frozen=True)
class Base:
    """Debian's part of the machine.

    Attributes:
        kernel: The file with the kernel.
        archive: The file with the tree, as cpio.
    """

    kernel: Path
    archive: Path


def build(directory: Path) -> Base:
    """Install a minimal Debian with systemd into an archive, in a minute. Needs Debian's mirror.

    Args:
        directory: The directory for it. If it is there already, nothing is done.
    """
    base = Base(directory / "vmlinuz", directory / "base.cpio")
    if base.archive.exists():
        return base
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / "base.cpio.new"
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=essential", f"--include={_PACKAGES}"),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
            f"--customize-hook={_HOOK}",
            f"--customize-hook=download /boot/vmlinuz '{base.kernel}'",
            f"--customize-hook=download /base.cpio '{unfinished}'",
            *("--format=null", _SUITE),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    unfinished.rename(base.archive)
    return base


def boot(
    base: Base, unit: str, files: Mapping[str, Path | str], directory: Path, timeout: float
) -> str:
    """Boot it until it powers itself off.

    Args:
        base: Debian's part.
        unit: The unit that it starts.
        files: More files of its tree, by their paths: a text, or the path of a file or directory of
            this machine. Executable files stay executable.
        directory: The directory for ``console.log``.
        timeout: Seconds until it must have powered itself off.

    Returns:
        The text that was written to ``/dev/ttyS1``.
    """
    initrd = directory / "initrd.cpio"
    result = directory / "result"
    added = directory / "added"
    for name, source in files.items():
        copy(source, added / name.lstrip("/"))
    subprocess.run(["sh", "-c", _APPEND, base.archive, initrd], cwd=added, check=True)
    try:
        subprocess.run(
            [
                *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", _MEMORY),
                *("-nodefaults", "-display", "none", "-no-reboot", "-nic", "none"),
                *("-kernel", str(base.kernel), "-initrd", str(initrd)),
                *("-append", _COMMAND_LINE.format(unit=unit)),
                *("-serial", f"file:{directory / 'console.log'}", "-serial", f"file:{result}"),
            ],
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
    finally:
        initrd.unlink()
    return result.read_text()


def copy(source: Path | str, target: Path) -> None:
    """Copy a text, file or directory with its times, which compiled Python needs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, str):
        target.write_text(source)
    elif source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)
