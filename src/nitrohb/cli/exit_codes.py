# SPDX-License-Identifier: Apache-2.0
"""The exit codes. After signal n the exit code is 128 + n, as in a shell."""

from __future__ import annotations

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

DONE: Final = 0
"""Done."""

FAILED: Final = 1
"""Failed: a message says what failed, why, and what to do. ``run`` then ended its command, or never
started it."""

USAGE: Final = 2
"""Usage: an option, an argument or an environment variable is invalid."""

TIMED_OUT: Final = 124  # as timeout(1)
"""Timed out: no heartbeat or no echo arrived in time, or ``serve --keep`` reached its time limit.
``run`` then ended its command."""

TOO_EARLY: Final = 125
"""Only ``run`` without ``--keep``: the command failed before every address had a heartbeat, and
nitrohb got no signal."""

NOT_STARTED: Final = 126  # as env(1)
"""Only ``run``: the command cannot be started."""

NOT_FOUND: Final = 127  # as env(1)
"""Only ``run``: the command does not exist."""
