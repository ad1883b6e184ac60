# SPDX-License-Identifier: Apache-2.0
"""Listen as the command line says, with what is loaded already: an enclave may be booting."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

from ..addresses import CID_ANY, Address, VsockAddress
from ..listeners import Listener, open_listeners, require_cids

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator

__all__ = ["addresses", "listening"]


@contextmanager
def listening(args: argparse.Namespace) -> Generator[list[Listener]]:
    """Listen on all addresses while the block runs. Whatever ends it, no socket file is left.

    Raises:
        UsageError: The options contradict each other.
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
        yield listeners


def addresses(args: argparse.Namespace) -> list[Address]:
    """Where to listen, as the command line says."""
    return args.listen or [_default()]


def _default() -> Address:
    from ..protocol import HEARTBEAT_PORT  # here, for those who name where to listen

    return VsockAddress(CID_ANY, HEARTBEAT_PORT)
