# SPDX-License-Identifier: Apache-2.0
"""How long nitro-cli would wait."""

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb import UsageError, boot_timeout

GIB = 1024**3  # bytes
GIB_IN_MIB = 1024


def around(step: int) -> st.SearchStrategy[int]:
    """Sizes of any magnitude, many of them near a multiple of a step."""
    near = st.tuples(st.integers(0, 1000), st.integers(-2, 2))
    return st.integers(1, 2**50) | near.map(lambda at: max(1, at[0] * step + at[1]))


@given(eif_size=around(6 * GIB), memory=around(100 * GIB_IN_MIB))
def test_ninety_seconds_for_each_six_gib_of_image_and_hundred_of_memory(
    eif_size: int, memory: int
) -> None:
    steps = math.ceil(Fraction(eif_size, 6 * GIB)) + math.ceil(Fraction(memory, 100 * GIB_IN_MIB))
    timeout = boot_timeout(eif_bytes=eif_size, memory_mib=memory)
    assert timeout == 90 * steps
    assert isinstance(timeout, float)


def test_the_sizes_at_which_the_time_limit_grows() -> None:
    for extra, steps in ((-1, 2), (0, 2), (1, 3)):
        assert boot_timeout(eif_bytes=2 * 6 * GIB + extra, memory_mib=64) == 90.0 * (steps + 1)
        memory = 2 * 100 * GIB_IN_MIB + extra
        assert boot_timeout(eif_bytes=1, memory_mib=memory) == 90.0 * (1 + steps)
    assert boot_timeout(eif_bytes=1, memory_mib=1) == 180.0


def test_wrong_sizes() -> None:
    sizes: list[Any] = [0, -1, -64, 1.5, "64", None]
    for size in sizes:
        with pytest.raises(UsageError, match=f"^eif_bytes .* {size!r}\n.* at least 1 byte"):
            boot_timeout(eif_bytes=size, memory_mib=64)
        with pytest.raises(UsageError, match=f"^memory_mib .* {size!r}\n.* at least 1 MiB"):
            boot_timeout(eif_bytes=1, memory_mib=size)
