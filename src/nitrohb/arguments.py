# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments. Each raises UsageError, which says what to pass instead."""

from .errors import UsageError


def check_seconds(name: str, value: object, *, may_be_0: bool = True) -> None:
    """Require a number of seconds, at least 0 or more than 0."""
    # Written this way round to reject NaN.
    if not (isinstance(value, int | float) and (value > 0 or (may_be_0 and value == 0))):
        least = "at least" if may_be_0 else "more than"
        raise UsageError(f"{name} cannot be {value!r}\nPass a number of {least} 0 s.")


def check_count(name: str, value: object, unit: str = "") -> None:
    """Require an integer of at least 1."""
    if not (isinstance(value, int) and value >= 1):
        raise UsageError(f"{name} cannot be {value!r}\nPass an integer of at least 1{unit}.")


def check_callback(name: str, value: object) -> None:
    """Require a plain function: nobody would await an async one."""
    from inspect import iscoroutinefunction  # not needed before the listen

    if not callable(value) or iscoroutinefunction(value) or iscoroutinefunction(value.__call__):
        raise UsageError(
            f"{name} cannot be {value!r}: it is not a plain function\n"
            "Pass one. For async code, pass send_nowait() of a trio.open_memory_channel(math.inf),"
            " and receive in a task."
        )
