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
    """Return how many seconds nitro-cli would wait for the heartbeat of an enclave.

    These are 90 s for every 6 GiB of image, to copy and unpack it, and 90 s for every 100 GiB of
    memory. A part of 6 or 100 GiB counts as a whole. (Source: calculate_necessary_timeout in
    aws-nitro-enclaves-cli.)

    Args:
        eif_bytes: The size of the enclave image file in bytes.
        memory_mib: The memory of the enclave in MiB, as for ``nitro-cli run-enclave --memory``.

    Returns:
        Seconds, at least 180.

    Raises:
        UsageError: A size is not an integer of at least 1.
    """
    check_count("eif_bytes", eif_bytes, " byte")
    check_count("memory_mib", memory_mib, " MiB")
    return _STEP * (-(-eif_bytes // _EIF_STEP) - (-memory_mib // _MEMORY_STEP))  # both rounded up
