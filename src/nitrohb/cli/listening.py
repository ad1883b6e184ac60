# SPDX-License-Identifier: Apache-2.0
"""Listen as the command line says, with what is loaded already: an enclave may be booting."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager

from ..addresses import CID_ANY, Address, VsockAddress
from ..sockets.listener import Listener
from ..sockets.opening import check_distinct, open_listeners, require_cids, where_bound

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Sequence

__all__ = ["addresses", "listening"]


@contextmanager
def listening(args: argparse.Namespace) -> Generator[list[Listener]]:
    """Listen on all addresses while the block runs. Whatever ends it, no socket file is left.

    Without an address, those are the sockets that a service manager has passed in, if it has.

    Raises:
        UsageError: The options contradict each other, or the variables of socket activation cannot
            be understood.
        ListenError: An address cannot be listened on.
    """
    wanted = addresses(args)
    if args.allow_cids is not None:
        require_cids(wanted)
    with ExitStack() as closing:
        listeners = open_listeners(
            wanted, socket_mode=args.socket_mode, socket_group=args.socket_group
        )
        for listener in listeners:
            closing.callback(listener.close)
            listener.address = where_bound(listener)
        check_distinct(listeners)  # a socket may have been passed in twice
        yield listeners


def addresses(args: argparse.Namespace) -> Sequence[Address]:
    """Where to listen, as the command line says, or who has passed sockets in."""
    return args.listen or _inherited() or [_default()]


def _inherited() -> Sequence[Address]:
    if "LISTEN_PID" not in os.environ:
        return []
    from ..sockets.activation import (
        inherited_sockets,
    )  # here, for those who are started for a socket

    return inherited_sockets()


def _default() -> Address:
    from ..protocol import HEARTBEAT_PORT  # here, for those who name where to listen

    return VsockAddress(CID_ANY, HEARTBEAT_PORT)
