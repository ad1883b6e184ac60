# SPDX-License-Identifier: Apache-2.0
"""What a command finds in ``NITROHB_LISTEN``: where we listen, as it can be used by anybody."""

import os
from collections.abc import Sequence
from contextlib import suppress

from ..addresses import Address, HybridAddress, UnixAddress
from ..errors import AddressError
from ..sockets.activation import VARIABLES
from ..sockets.listener import Listener
from ..sockets.unixfile import absolute
from . import manager

__all__ = ["environment"]

# Meant for us. The command cannot use a socket on which we listen, and it is we who tell the
# service manager how the service does.
_OURS = {*VARIABLES, *manager.VARIABLES}


def environment(listeners: Sequence[Listener]) -> dict[str, str]:
    """Our own environment, and in ``NITROHB_LISTEN`` the addresses of some listeners, one a line.

    No address has a line break in it, but a path may have a space. What a service manager has set
    for us alone is left out.
    """
    addresses = "\n".join(str(_told(listener.address)) for listener in listeners)
    others = {name: value for name, value in os.environ.items() if name not in _OURS}
    return {**others, "NITROHB_LISTEN": addresses}


def _told(address: Address) -> Address:
    """Where we listen, for a process in another directory.

    If that cannot be told, it is the address as it was given to us. An absolute path, say, can be
    too long for a Unix socket.
    """
    with suppress(AddressError, OSError):
        match address:
            case UnixAddress(path):
                return UnixAddress(absolute(path))
            case HybridAddress(path, port):
                return HybridAddress(absolute(path), port)
            case _:
                pass
    return address
