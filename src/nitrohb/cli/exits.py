# SPDX-License-Identifier: Apache-2.0
"""The exit codes. After a signal it is 128 and the signal's number, as a shell gives it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["DONE", "FAILED", "NOT_FOUND", "NOT_STARTED", "TIMED_OUT", "TOO_EARLY", "USAGE"]

DONE: Final = 0
"""Done: what was asked for has happened."""

FAILED: Final = 1
"""Failed: stderr says at what, why, and what helps. Under ``run`` the command was not started, or
was ended."""

USAGE: Final = 2
"""Usage: what was written on the command line makes no sense, or not together."""

TIMED_OUT: Final = 124  # as timeout(1) has it
"""Timed out: no heartbeat, or no answer, came in time. Under ``run`` the command was ended."""

# Of `run`, whose command did not boot an enclave; the last two as env(1) has them.
TOO_EARLY: Final = 125
"""Only of ``run``: the command ended before its heartbeat (not with ``--keep``, nor after SIGTERM,
nor after another signal if the command's own status is not 0)."""

NOT_STARTED: Final = 126
"""Only of ``run``: the command cannot be started."""

NOT_FOUND: Final = 127
"""Only of ``run``: there is no such command."""
