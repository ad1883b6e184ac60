# SPDX-License-Identifier: Apache-2.0
"""What keeps a server from its work, and what helps: said on stderr, whoever reads the events."""

from collections.abc import Callable, Collection

from ..events import Connected, Event, Lost, Rejected, RejectReason
from ..remedies import LOOPBACK_CID, SAME_CIDS

__all__ = ["Hints"]


class Hints:
    """Takes events, and says what somebody should do something about.

    Args:
        say: Prints a line to stderr, or several.
        allow_cids: The CIDs that are answered; None for all.

    Attributes:
        awaits_cid: Whether somebody waits for a heartbeat of another CID than the loopback's.
    """

    def __init__(self, say: Callable[[str], None], allow_cids: Collection[int] | None) -> None:
        self._say = say
        allowed = set(allow_cids or ())
        self._allows_all_for_one = LOOPBACK_CID in allowed and len(allowed) > 1
        self._has_said_cids_are_the_same = False
        self.awaits_cid: Callable[[], bool] = lambda: False

    def __call__(self, event: Event) -> None:
        """Take an event, as ``on_event``."""
        match event:
            case Lost() if event.problem is not None:
                self._say(f"nitrohb: {event.explanation}")
            case Rejected(reason=RejectReason.CID) if event.cid == LOOPBACK_CID:
                self._say_cids_are_the_same(event, "is refused")
            case Connected() if event.cid == LOOPBACK_CID and self._allows_all_for_one:
                self._say_cids_are_the_same(event, "is allowed, whichever VM it is of")
            case Connected() if event.cid == LOOPBACK_CID and self.awaits_cid():
                self._say_cids_are_the_same(event, "has come while another CID is awaited")
            case _:
                pass

    def _say_cids_are_the_same(self, event: Event, what: str) -> None:
        if not self._has_said_cids_are_the_same:
            self._has_said_cids_are_the_same = True
            seen = f"a connection from CID {LOOPBACK_CID} on {event.address} {what}"
            self._say(f"nitrohb: {seen}: {SAME_CIDS}")
