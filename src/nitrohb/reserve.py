# SPDX-License-Identifier: Apache-2.0
"""One descriptor in reserve, so that a heartbeat is answered when no other descriptor is free."""

import logging
import os
from contextlib import suppress
from typing import Final

from .remedies import advice_from, descriptor_shortage

_log: Final = logging.getLogger(__package__)


class Reserve:
    """A descriptor that a connection can have, until one is closed.

    Attributes:
        fd: The descriptor; -1 while a connection has it.

    Raises:
        NitrohbError: No descriptor is left.
    """

    def __init__(self) -> None:
        self._has_warned = False
        try:
            self.fd = os.eventfd(0)
        except OSError as error:
            raise descriptor_shortage(error.errno) or error from None

    def spend(self) -> bool:
        """Free the descriptor; return whether it was there."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        return fd >= 0

    def refill(self) -> None:
        """Have the descriptor again, if one is free."""
        with suppress(OSError):
            self.fd = os.eventfd(0)

    def warn(self, number: int, address: object) -> None:
        """Log, once, that connections cannot be accepted as they come."""
        if not self._has_warned:
            self._has_warned = True
            reason, remedy, _ = advice_from({}, number, address)
            what = "so heartbeats may have to wait, and silent connections are closed"
            _log.warning("nitrohb: %s: %s, %s\n%s", address, reason, what, remedy)
