# SPDX-License-Identifier: Apache-2.0
"""What a server was asked to do."""

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final

from .addresses import CID_ANY, VsockAddress
from .errors import UsageError
from .events import Event, Lost
from .listeners import Target, require_cids

__all__ = ["OnEvent", "Rules", "check_cid"]

OnEvent = Callable[[Event], object]

_log: Final = logging.getLogger(__package__)


class Rules:
    """What a server was asked to do: the arguments of :func:`serve_heartbeat`, checked."""

    def __init__(
        self,
        once: bool,
        allow_cids: Collection[int] | None,
        any_byte: bool,
        handshake_timeout: float,
        max_pending: int,
        on_event: OnEvent | None,
    ) -> None:
        if not handshake_timeout > 0:  # not "<= 0", which NaN would pass
            raise UsageError(f"handshake_timeout must be more than 0 s, got {handshake_timeout}")
        if allow_cids is not None and not allow_cids:
            raise UsageError("allow_cids is empty, so nobody could be answered (None allows all)")
        for cid in allow_cids or ():
            check_cid("allow_cids", cid)
        if max_pending < 1:
            raise UsageError(f"max_pending must be at least 1, got {max_pending}")
        self.once = once
        self.allow_cids = None if allow_cids is None else frozenset(allow_cids)
        self.any_byte = any_byte
        self.handshake_timeout = handshake_timeout
        self.emit: OnEvent = on_event or _log_problem
        # What nobody learns of is not even made: neither the caller, from one shot, nor on_event.
        self.reports = once or on_event is not None

    def check_cids(self, targets: Iterable[Target]) -> None:
        """Refuse an allow-list where peers have no CID."""
        if self.allow_cids is not None:
            require_cids(targets)

    def allow(self, peer: VsockAddress | None) -> bool:
        """Whether a peer is to be answered at all."""
        return self.allow_cids is None or (peer is not None and peer.cid in self.allow_cids)


def check_cid(name: str, cid: object) -> None:
    """Refuse what is no peer's CID."""
    if not isinstance(cid, int) or not 0 <= cid < CID_ANY:
        raise UsageError(f"{name}: expected CIDs from 0 to {CID_ANY - 1}, got {cid!r}")


def _log_problem(event: Event) -> None:
    """Stand in for ``on_event``: what keeps a server from its work must not go unnoticed."""
    if isinstance(event, Lost) and event.problem is not None:
        _log.error("nitrohb: %s", event.explanation)
