# SPDX-License-Identifier: Apache-2.0
"""Checks of what a caller passes. Each raises UsageError, which says what to pass instead."""

from .errors import UsageError


def check_seconds(name: str, value: object, *, may_be_0: bool = True) -> None:
    """Refuse what is not a number, and what is negative, or 0 unless it may be."""
    # Not "value < 0", which NaN would pass.
    if not (isinstance(value, int | float) and (value > 0 or (may_be_0 and value == 0))):
        least = "at least" if may_be_0 else "more than"
        raise UsageError(f"{name} must be a number of {least} 0 s, got {value!r}")


def check_count(name: str, value: object, unit: str = "") -> None:
    """Refuse what is not an integer from 1 up."""
    if not (isinstance(value, int) and value >= 1):
        raise UsageError(f"{name} must be an integer of at least 1{unit}, got {value!r}")


def check_callback(name: str, value: object) -> None:
    """Refuse what cannot be called, and an async function, which nobody would await."""
    from inspect import iscoroutinefunction  # the console script listens before it is loaded

    if not callable(value) or iscoroutinefunction(value) or iscoroutinefunction(value.__call__):
        raise UsageError(
            f"{name} must be a plain function, because it is not awaited: got {value!r}\n"
            "For async code, pass the send_nowait of a trio.open_memory_channel(math.inf), and"
            " receive from it in a task."
        )
