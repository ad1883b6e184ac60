# SPDX-License-Identifier: Apache-2.0
"""Tasks that wait for the heartbeats of a running server: :mod:`nitrohb.claims` under trio."""

from collections.abc import Callable, Iterable

import trio

from .addresses import Address
from .claims import Claims, Wanted
from .errors import ServerEndedError
from .events import Heartbeat

__all__ = ["Handout"]


class _Waiter:
    """A task that sleeps until it is handed something."""

    def __init__(self) -> None:
        self._task = trio.lowlevel.current_task()
        self._got: Heartbeat | ServerEndedError | None = None

    def hand(self, got: Heartbeat | ServerEndedError) -> None:
        self._got = got
        trio.lowlevel.reschedule(self._task)

    async def sleep(self, give_up: Callable[["_Waiter"], None]) -> Heartbeat:
        """Return or raise what is handed to it; if it is cancelled before that, it gives up."""

        def abort(_: object) -> trio.lowlevel.Abort:
            give_up(self)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if not isinstance(self._got, Heartbeat):
            assert self._got is not None
            raise self._got
        return self._got


class Handout:
    """Hands each heartbeat to one task.

    Args:
        addresses: Where heartbeats may come from, and whether their senders have CIDs there.
    """

    def __init__(self, addresses: Iterable[tuple[Address, bool]]) -> None:
        self._open = dict(addresses)
        self._claims = Claims[_Waiter]()
        self._ended = False
        self._failure: Exception | None = None

    def last(self) -> list[Heartbeat]:
        """The last heartbeat of each enclave."""
        return list(self._claims.last())

    def arrive(self, beat: Heartbeat) -> None:
        """Hand a heartbeat to whoever has waited longest for such a one, or keep it."""
        waiter = self._claims.arrive(beat, trio.current_time())
        if waiter is not None:
            waiter.hand(beat)

    def forget(self, address: Address) -> None:
        """Let nobody claim what has come in on an address."""
        self._claims.forget(address)

    async def claim(self, wanted: Wanted) -> Heartbeat:
        """Return a heartbeat that has come, or wait for one. A cancellation claims nothing.

        Raises:
            ServerEndedError: None can come any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        beat = self._claims.claim(wanted, trio.current_time())
        if beat is None and self._may_come(wanted):
            waiter = _Waiter()
            self._claims.wait(waiter, wanted)
            return await waiter.sleep(self._claims.give_up)
        await trio.lowlevel.cancel_shielded_checkpoint()
        if beat is None:
            raise self._why_none(wanted)
        return beat

    def close(self, address: Address) -> None:
        """No heartbeat comes in on this address any more: let nobody wait for one in vain."""
        del self._open[address]
        self._send_away()

    def end(self, _: object, failure: BaseException | None, __: object) -> None:
        """No heartbeat comes in any more: the server has ended, or failed. As ``__exit__`` is."""
        self._open.clear()
        self._ended = True
        self._failure = failure if isinstance(failure, Exception) else None
        self._send_away()

    def _send_away(self) -> None:
        for waiter, wanted in list(self._claims.waiting()):
            if not self._may_come(wanted):
                self._claims.give_up(waiter)
                waiter.hand(self._why_none(wanted))

    def _why_none(self, wanted: Wanted) -> ServerEndedError:
        error = ServerEndedError(wanted.cid, wanted.address, self._ended)
        error.__cause__ = self._failure
        return error

    def _may_come(self, wanted: Wanted) -> bool:
        return any(
            wanted.matches(address, wanted.cid if has_cids else None)
            for address, has_cids in self._open.items()
        )
