# SPDX-License-Identifier: Apache-2.0
"""One descriptor in reserve, to answer a heartbeat when no other descriptor is free."""

import errno
import logging
import os
from contextlib import suppress
from typing import Final

from .remedies import advice_from, descriptor_shortage

_log: Final = logging.getLogger(__package__)


_NO_MEMORY: Final = dict.fromkeys(
    (errno.ENOMEM, errno.ENOBUFS),
    ("the system or container has too little memory", "Free memory, or raise the limit."),
)


class Reserve:
    """A descriptor that a connection can use until another one is closed.

    Attributes:
        fd: The descriptor; -1 while a connection uses it.

    Raises:
        NitrohbError: No descriptor is left.
    """

    def __init__(self) -> None:
        self._has_warned = False
        # This imports what warn() needs: an import takes a descriptor, and then there is none.
        advice_from({}, errno.EMFILE, "")
        try:
            self.fd = os.eventfd(0)
        except OSError as error:
            raise descriptor_shortage(error.errno) or error from None

    def spend(self) -> bool:
        """Free the descriptor, and return whether there was one."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        return fd >= 0

    def refill(self) -> None:
        """Take a descriptor again, if one is free."""
        with suppress(OSError):
            self.fd = os.eventfd(0)

    def warn(self, number: int, address: object) -> None:
        """Log, once, that some connections have to wait."""
        if not self._has_warned:
            self._has_warned = True
            reason, remedy = advice_from(_NO_MEMORY, number, address)
            until = "Until then, heartbeats might wait, and pending connections are closed."
            what = "cannot accept every connection on"
            _log.warning("nitrohb: %s %s: %s\n%s %s", what, address, reason, remedy, until)
