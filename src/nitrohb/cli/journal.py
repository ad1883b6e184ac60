# SPDX-License-Identifier: Apache-2.0
"""The systemd journal: is it there that a stream goes, and how a line tells it its priority.

The journal reads a number in angle brackets at the beginning of a line as the priority of
syslog(3), and takes it off (sd-daemon(3)). JOURNAL_STREAM names the socket to the journal that a
service was started with, by its device and inode. It is inherited, and a stream may have been
redirected since: only a stream that is that very socket gets priorities (systemd.exec(5)).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["is_journal", "prioritized"]


def is_journal(stream: TextIO | None) -> bool:
    """Whether a stream goes to the systemd journal."""
    name = os.environ.get("JOURNAL_STREAM")
    if not name or stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return False
    return name == f"{status.st_dev}:{status.st_ino}"


def prioritized(text: str, priority: int) -> str:
    """One line or several, each with its priority before it, for the journal."""
    mark = f"<{priority}>"
    return mark + text.replace("\n", f"\n{mark}")
