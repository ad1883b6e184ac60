# SPDX-License-Identifier: Apache-2.0
"""The exit codes. After a signal it is 128 and the signal's number, as a shell gives it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["DONE", "FAILED", "NOT_FOUND", "NOT_STARTED", "TIMED_OUT", "TOO_EARLY", "USAGE"]

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
TIMED_OUT: Final = 124  # as timeout(1) has it

# Of `run`, whose command did not boot an enclave; the last two as env(1) has them.
TOO_EARLY: Final = 125
NOT_STARTED: Final = 126
NOT_FOUND: Final = 127
