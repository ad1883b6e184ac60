# SPDX-License-Identifier: Apache-2.0
"""What a command finds in ``NITROHB_LISTEN``: where we listen, as it can be used by anybody."""

import os
from collections.abc import Sequence
from contextlib import suppress

from ..addresses import Address, HybridAddress, InheritedSocket, UnixAddress, VsockAddress
from ..errors import AddressError
from ..listeners import Listener, absolute

__all__ = ["environment"]


def environment(listeners: Sequence[Listener]) -> dict[str, str]:
    """Our own environment, and in ``NITROHB_LISTEN`` the addresses of some listeners, one a line.

    No address has a line break in it, but a path may have a space.
    """
    addresses = "\n".join(str(_told(listener)) for listener in listeners)
    return {**os.environ, "NITROHB_LISTEN": addresses}


def _told(listener: Listener) -> Address:
    """Where it listens, for a process in another directory, and without our descriptors.

    If that cannot be told, it is the address as it was given to us. An absolute path, say, can be
    too long for a Unix socket.
    """
    with suppress(AddressError, OSError):
        match listener.address:
            case UnixAddress(path):
                return UnixAddress(absolute(path))
            case HybridAddress(path, port):
                return HybridAddress(absolute(path), port)
            case InheritedSocket():
                return _bound(listener)
            case VsockAddress():
                pass
    return listener.address


def _bound(listener: Listener) -> Address:
    """Where an inherited socket is bound to."""
    name = listener.sock.getsockname()
    if listener.has_cids:
        return VsockAddress(*name)
    # A relative path counts from where it was bound, which is not known; others are no path at all.
    return UnixAddress(name) if os.path.isabs(name) else listener.address
