# SPDX-License-Identifier: Apache-2.0
"""A machine that boots a real systemd: QEMU without KVM, Debian's kernel, a minimal Debian.

The whole tree is an initramfs, so that neither a disk nor a driver for one is needed. It is made
of two parts: Debian's packages, which take a while and stay the same (:func:`build`), and what a
test adds (:func:`boot`).
"""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

PROGRAMS: Final = {"mmdebstrap": "mmdebstrap", "qemu-system-x86_64": "qemu-system-x86"}
"""What this needs, and the Debian packages that have it."""

_SUITE: Final = "bookworm"
_PACKAGES: Final = "systemd,systemd-sysv,python3,kmod,passwd"
_EXCLUDED: Final = tuple(f"/usr/share/{name}/*" for name in ("doc", "i18n", "locale", "man"))
_HOOK: Final = Path(__file__).with_name("add_kernel.sh")

_MEMORY: Final = "1G"
_COMMAND_LINE: Final = (
    # No tsc: under load its calibration against a clock that QEMU emulates can go wrong.
    "console=ttyS0 quiet panic=-1 mitigations=off clocksource=hpet tsc=unstable"
    " rdinit=/lib/systemd/systemd systemd.unit={unit}"
    " systemd.show_status=yes"
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
    """Install a minimal Debian with systemd into an archive; takes a minute, and Debian's mirror.

    Args:
        directory: Where to leave it. If it is there already, nothing is done.
    """
    base = Base(directory / "vmlinuz", directory / "base.cpio")
    if base.archive.exists():
        return base
    directory.mkdir(parents=True, exist_ok=True)
    tree = directory / "tree.tar"
    subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=essential", f"--include={_PACKAGES}"),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
            *(f"--customize-hook={_HOOK}", _SUITE, str(tree)),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    unfinished = directory / "base.cpio.new"
    with tarfile.open(tree) as tar, unfinished.open("wb") as out:
        kernel = tar.extractfile("./boot/vmlinuz")
        assert kernel is not None
        base.kernel.write_bytes(kernel.read())
        _write(out, _members(tar))
    tree.unlink()
    unfinished.rename(base.archive)
    return base


def boot(
    base: Base, unit: str, files: Mapping[str, Path | str], directory: Path, timeout: float
) -> str:
    """Boot it until it powers itself off.

    Args:
        base: Debian's part.
        unit: The unit that it starts.
        files: What else is in its tree: a text, or a file or directory of this machine, by the
            path there. What is executable here is so there.
        directory: Where to leave the console's log, ``console.log``.
        timeout: Seconds until it must be done.

    Returns:
        What has been written to ``/dev/ttyS1``.
    """
    initrd = directory / "initrd.cpio"
    result = directory / "result"
    with initrd.open("wb") as out:
        with base.archive.open("rb") as archive:
            shutil.copyfileobj(archive, out, 1 << 20)
        _write(out, _tree(files))
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


@dataclass(frozen=True)
class _Member:
    """A file of an archive."""

    name: str
    mode: int
    data: bytes = b""
    time: int = 0  # Python compares it with what its compiled files say of their source
    owner: tuple[int, int] = (0, 0)
    device: tuple[int, int] = (0, 0)


_KINDS: Final = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.LNKTYPE: stat.S_IFREG,  # a hard link: another copy serves as well
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.CHRTYPE: stat.S_IFCHR,
}


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    for info in tar:
        if info.issym():
            data = info.linkname.encode()
        else:
            content = tar.extractfile(info) if info.isfile() or info.islnk() else None
            data = b"" if content is None else content.read()
        yield _Member(
            info.name,
            _KINDS[info.type] | info.mode,
            data,
            int(info.mtime),
            (info.uid, info.gid),
            (info.devmajor, info.devminor) if info.ischr() else (0, 0),
        )


def _tree(files: Mapping[str, Path | str]) -> Iterator[_Member]:
    made = set[str]()
    for name, source in files.items():
        for member in _file(name.lstrip("/"), source):
            parents = [str(parent) for parent in Path(member.name).parents][-2::-1]
            for parent in parents:
                if parent not in made:
                    made.add(parent)
                    yield _Member(parent, stat.S_IFDIR | 0o755)
            made.add(member.name)
            yield member


def _file(name: str, source: Path | str) -> Iterator[_Member]:
    if isinstance(source, str):
        yield _Member(name, stat.S_IFREG | 0o644, source.encode())
    elif source.is_symlink():
        yield _Member(name, stat.S_IFLNK | 0o777, os.fsencode(source.readlink()))
    elif source.is_dir():
        yield _Member(name, stat.S_IFDIR | 0o755)
        for each in sorted(source.iterdir()):
            yield from _file(f"{name}/{each.name}", each)
    else:
        mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
        modified = int(source.stat().st_mtime)
        yield _Member(name, stat.S_IFREG | mode, source.read_bytes(), modified)


def _write(out: BinaryIO, members: Iterator[_Member]) -> None:
    """Write an archive as the kernel reads it (its buffer-format.rst, "newc")."""
    for number, member in enumerate([*members, _Member("TRAILER!!!", 0)], 1):
        name = member.name.encode() + b"\0"
        fields = (
            *(number, member.mode, *member.owner, 1, member.time, len(member.data), 0, 0),
            *(*member.device, len(name), 0),
        )
        header = io.BytesIO()
        header.write(b"070701")
        header.write("".join(f"{field:08X}" for field in fields).encode())
        header.write(name)
        out.write(_padded(header.getvalue()))
        out.write(_padded(member.data))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
