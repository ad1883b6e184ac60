# SPDX-License-Identifier: Apache-2.0
"""An enclave image file (EIF), as QEMU's ``-M nitro-enclave`` boots it.

The format is that of the aws-nitro-enclaves-image-format crate (version 4): a header with a table
of sections, and the sections; all numbers are big-endian. The checksum, a CRC-32, is of all but
itself.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_VERSION: Final = 4
_TABLE: Final = 32  # places for sections in the header

# Before the checksum: magic, version, flags, memory, CPUs, reserved, number of sections, offsets,
# sizes, unused. And of a section: type, flags, size.
_HEADER: Final = struct.Struct(f">4sHHQQHH{_TABLE}Q{_TABLE}QI")
_SECTION: Final = struct.Struct(">HHQ")
_CHECKSUM: Final = struct.Struct(">I")

_KERNEL, _CMDLINE, _RAMDISK = 1, 2, 3

_MEMORY: Final = 256 << 20
_CPUS: Final = 1


def write_eif(path: Path, kernel: Path, ramdisk: Path, cmdline: str) -> None:
    """Make an EIF of a kernel, an initramfs and the kernel's command line."""
    sections = [
        (_KERNEL, kernel.read_bytes()),
        (_CMDLINE, cmdline.encode()),
        (_RAMDISK, ramdisk.read_bytes()),
    ]
    path.write_bytes(_pack(sections))


def _pack(sections: Sequence[tuple[int, bytes]]) -> bytes:
    packed = [_SECTION.pack(kind, 0, len(data)) + data for kind, data in sections]
    start = _HEADER.size + _CHECKSUM.size
    offsets = [start + sum(map(len, packed[:number])) for number in range(len(packed))]
    sizes = [len(data) for _, data in sections]
    free = [0] * (_TABLE - len(sections))
    counts = (_VERSION, 0, _MEMORY, _CPUS, 0, len(sections))
    header = _HEADER.pack(b".eif", *counts, *offsets, *free, *sizes, *free, 0)
    body = b"".join(packed)
    return header + _CHECKSUM.pack(zlib.crc32(header + body)) + body
