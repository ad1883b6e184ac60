# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: what keeps the clients of the interface from delaying a heartbeat.

Trio runs all tasks that have something to do before it looks for new heartbeats: that is one pass
of its loop. So a heartbeat waits as long as a pass takes, and that is long if many connections have
something to do at once. Here they queue, and in a turn one of them

- is accepted, or takes in a piece of what its client has sent, or sends what its client gets. What
  follows from that, in some passes of the loop, is done meanwhile or soon afterwards;
- then the interface rests, for as long as that took at least, so that most heartbeats find the loop
  idle, however many requests come, and however slow the machine is.

The three wait in queues of their own, which are served alternately: whoever waits for a heartbeat
is told of it at once, and a newcomer gets in, even while all others ask all the time. Where nobody
else is, the turn comes at once.
"""

from typing import Final

import trio

__all__ = ["Turns"]

PASSES: Final = 20  # of the loop, in a turn: a small request is answered in as many
REST: Final = 0.001  # seconds between two turns, at least; epoll_wait(2) knows no less

Queue = trio.lowlevel.ParkingLot


class Turns:
    """Connections that have their turns, one after another.

    Attributes:
        accepted: The queue of those who have just been accepted.
        receiving: The queue of those who have received something.
        sending: The queue of those who have something to send.
    """

    def __init__(self) -> None:
        self.accepted, self.receiving, self.sending = Queue(), Queue(), Queue()
        self._queues = (self.sending, self.accepted, self.receiving)
        self._somebody = trio.Event()
        self._whose: object = None
        self._is_over = False
        self._exit = trio.Lock()

    async def run(self) -> None:
        """Call up who queues, until cancelled: from then on nobody has to queue."""
        try:
            while True:
                await self._somebody.wait()
                self._somebody = trio.Event()
                while queues := [queue for queue in self._queues if queue]:
                    for queue in queues:
                        await self._call_up(queue)
        finally:
            self._is_over = True
            for queue in self._queues:
                queue.unpark_all()

    async def take(self, who: object, queue: Queue) -> None:
        """Wait in a queue until it is somebody's turn, unless it is so already."""
        if self._is_over or self._whose is who:
            return
        self._somebody.set()
        await queue.park()
        self._whose = who

    async def leave(self) -> None:
        """Wait for next to nothing: many may leave at once, but one in each pass of the loop."""
        async with self._exit:
            await trio.lowlevel.checkpoint()

    async def _call_up(self, queue: Queue) -> None:
        began = trio.current_time()
        queue.unpark()
        for _ in range(PASSES):
            await trio.lowlevel.checkpoint()
        self._whose = None
        await trio.sleep(max(REST, trio.current_time() - began))
