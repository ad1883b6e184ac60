# SPDX-License-Identifier: Apache-2.0
"""How long nitro-cli would wait."""

import math
from fractions import Fraction

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
    timeout = boot_timeout(eif_size, memory)
    assert timeout == 90 * steps
    assert isinstance(timeout, float)


@pytest.mark.parametrize(
    ("eif_size", "steps"),
    [
        (1, 1),
        (6 * GIB - 1, 1),
        (6 * GIB, 1),
        (6 * GIB + 1, 2),
        (12 * GIB - 1, 2),
        (12 * GIB, 2),
        (12 * GIB + 1, 3),
    ],
)
def test_where_an_image_takes_another_step(eif_size: int, steps: int) -> None:
    assert boot_timeout(eif_size, 64) == 90.0 * (steps + 1)


@pytest.mark.parametrize(
    ("memory", "steps"),
    [
        (1, 1),
        (102399, 1),
        (102400, 1),
        (102401, 2),
        (204799, 2),
        (204800, 2),
        (204801, 3),
    ],
)
def test_where_memory_takes_another_step(memory: int, steps: int) -> None:
    assert boot_timeout(1, memory) == 90.0 * (1 + steps)


@pytest.mark.parametrize(
    ("eif_size", "memory", "message"),
    [
        (0, 64, "eif_size must be at least 1 byte, got 0"),
        (-1, 64, "eif_size must be at least 1 byte, got -1"),
        (1, 0, "memory must be at least 1 MiB, got 0"),
        (1, -64, "memory must be at least 1 MiB, got -64"),
    ],
)
def test_sizes_that_make_no_sense(eif_size: int, memory: int, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        boot_timeout(eif_size, memory)
