# SPDX-License-Identifier: Apache-2.0
"""The response to ``GET /events``: server-sent events, for as long as the client stays."""

from typing import Final

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .feed import Feed, LaggingError
from .places import Places

__all__ = ["EventStream"]

KEEP_ALIVE: Final = 15.0  # seconds without an event
SEND_TIMEOUT: Final = 10.0  # seconds that a client may leave a piece unread


class EventStream(Response):
    """What happens from now on, or from after the last event that the client has seen.

    Args:
        feed: Where the events are.
        last_seen: What the client says is the number of the last event that it has seen.
        places: Where this client takes one.
    """

    def __init__(self, feed: Feed, last_seen: str, places: Places) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._feed = feed
        self._place = feed.place_after(last_seen)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client goes away, or does not read them."""
        with self._places.take():
            await self._stream(receive, send)

    async def _stream(self, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_all, send, nursery.cancel_scope)
            await receive()  # the body, which nobody wants
            await receive()  # that the client is gone: there is nothing else to come
            nursery.cancel_scope.cancel()

    async def _send_all(self, send: Send, scope: trio.CancelScope) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        text: str | None = ": hello\n\n"  # so that the client sees at once that it is connected
        while text is not None and await _send_in_time(send, text):
            text = await self._next()
        scope.cancel()

    async def _next(self) -> str | None:
        """What is to be sent next. None: the client is too far behind."""
        with trio.move_on_after(KEEP_ALIVE):
            try:
                text = await self._feed.read(self._place)
            except LaggingError:
                return None
            self._place = self._feed.last
            return text
        return ": still here\n\n"


async def _send_in_time(send: Send, text: str) -> bool:
    with trio.move_on_after(SEND_TIMEOUT):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        return True
    return False
