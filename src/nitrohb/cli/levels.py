# SPDX-License-Identifier: Apache-2.0
"""How much a line matters: ``--log-level``, in the priorities of syslog(3). Less is graver."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["DEBUG", "ERROR", "INFO", "NAMES", "NONE", "NUMBERS", "WARNING"]

NONE: Final = -1
ERROR: Final = 3
WARNING: Final = 4
INFO: Final = 6
DEBUG: Final = 7

NAMES: Final = {DEBUG: "debug", INFO: "info", WARNING: "warning", ERROR: "error"}
NUMBERS: Final = {name: number for number, name in NAMES.items()}
