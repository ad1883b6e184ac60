# SPDX-License-Identifier: Apache-2.0
"""How long to wait for an enclave to boot."""

from __future__ import annotations

from .arguments import check_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_STEP: Final = 90.0  # seconds
_EIF_STEP: Final = 6 << 30  # bytes
_MEMORY_STEP: Final = 100 << 10  # MiB


def boot_timeout(*, eif_bytes: int, memory_mib: int) -> float:
    """How long nitro-cli would wait for an enclave's heartbeat.

    90 s per 6 GiB of image, because the image has to be copied and unpacked, and 90 s per 100 GiB
    of memory, both rounded up. (Source: calculate_necessary_timeout in aws-nitro-enclaves-cli.)

    Args:
        eif_bytes: Size of the enclave's image file, in bytes.
        memory_mib: Memory of the enclave in MiB, as ``nitro-cli run-enclave --memory`` takes it.

    Returns:
        Seconds, 180 at the least.

    Raises:
        UsageError: A size is not an integer from 1 up.
    """
    check_count("eif_bytes", eif_bytes, " byte")
    check_count("memory_mib", memory_mib, " MiB")
    return _STEP * (-(-eif_bytes // _EIF_STEP) - (-memory_mib // _MEMORY_STEP))  # both rounded up
