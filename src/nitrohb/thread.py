# SPDX-License-Identifier: Apache-2.0
"""The server for programs without trio: it runs in a thread of its own."""

import math
import threading
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import anyio.abc
import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from .addresses import Address
from .errors import PeerTimeoutError, ServerEndedError, UsageError
from .events import Heartbeat
from .listeners import Listen
from .server import HeartbeatServer, OnEvent, serve_heartbeat

__all__ = ["ThreadServer", "serve_in_thread"]


class ThreadServer:
    """A server that runs in a thread, as :func:`serve_in_thread` yields it.

    Its methods can be called from any thread but the server's own, that is, not from ``on_event``.

    Attributes:
        addresses: Where it listens, in the order of the call.
    """

    def __init__(self, portal: BlockingPortal, server: HeartbeatServer, thread: int) -> None:
        self.addresses = server.addresses
        self._portal = portal
        self._server = server
        self._thread = thread

    def wait_heartbeat(
        self,
        *,
        cid: int | None = None,
        address: Address | str | None = None,
        max_age: float = 60.0,
        timeout: float | None = None,
    ) -> Heartbeat:
        """Claim a heartbeat, as :meth:`HeartbeatServer.wait_heartbeat` does. Blocks until it comes.

        Args:
            cid: Of the enclave with this CID. Default: of any.
            address: That came in on this listen address. Default: any.
            max_age: Seconds since it came, at the most.
            timeout: Seconds to wait, at the most; None waits as long as it takes.

        Returns:
            The heartbeat.

        Raises:
            PeerTimeoutError: None has come in time. It is a :class:`TimeoutError`, too.
            UsageError: As in :meth:`HeartbeatServer.wait_heartbeat`, or called from ``on_event``.
            ServerEndedError: The server has ended, with what it failed of, if it did, as its cause;
                or it has closed the address.

        An exception that interrupts it, as KeyboardInterrupt does, claims nothing, unless it comes
        in the very moment in which the heartbeat is handed out: then nobody gets it. A thread
        cannot be interrupted otherwise: when a task that awaits it by ``asyncio.to_thread()`` is
        cancelled, it goes on waiting, and claims, until its ``timeout`` or the end of the block.
        """
        if timeout is not None and not timeout >= 0:
            raise UsageError(f"timeout must be at least 0 s, got {timeout}")
        scope = trio.CancelScope()

        async def wait() -> Heartbeat:
            with scope:
                scope.deadline = trio.current_time() + (math.inf if timeout is None else timeout)
                return await self._server.wait_heartbeat(cid=cid, address=address, max_age=max_age)
            sender = "" if cid is None else f" from CID {cid}"
            where = "" if address is None else f" on {address}"
            raise PeerTimeoutError(f"no heartbeat{sender} came{where} within {timeout} s")

        try:
            with self._reachable() as portal:
                return portal.call(wait)
        except Exception:
            raise
        except BaseException:  # we are interrupted, and it may be waiting there
            with suppress(ServerEndedError), self._reachable() as portal:
                portal.call(scope.cancel)
            raise

    def last_heartbeats(self) -> list[Heartbeat]:
        """The last heartbeat of each enclave: see :meth:`HeartbeatServer.last_heartbeats`.

        Raises:
            ServerEndedError: The server's ``with`` block has been left.
        """
        with self._reachable() as portal:
            return portal.call(self._server.last_heartbeats)

    def rearm(self, address: Address | str | None = None) -> None:
        """Begin anew, on one address or on all: see :meth:`HeartbeatServer.rearm`.

        Raises:
            UsageError: The server does not listen on this address, or no longer does.
            ServerEndedError: The server's ``with`` block has been left.
        """
        with self._reachable() as portal:
            portal.call(self._server.rearm, address)

    @contextmanager
    def _reachable(self) -> Generator[BlockingPortal]:
        if threading.get_ident() == self._thread:
            raise UsageError("called in the server's own thread, from on_event: it would be stuck")
        try:
            yield self._portal
        except RuntimeError:  # it runs no more
            raise ServerEndedError(None, None, True) from None


@contextmanager
def serve_in_thread(
    *listen: Listen,
    once: bool = True,
    allow_cids: Collection[int] | None = None,
    any_byte: bool = False,
    handshake_timeout: float = 5.0,
    max_pending: int = 1024,
    on_event: OnEvent | None = None,
) -> Generator[ThreadServer]:
    """Serve heartbeats in a thread while the ``with`` block runs: for programs without trio.

    .. code-block:: python

        import subprocess

        from nitrohb import serve_in_thread

        with serve_in_thread("unix:enclave.sock") as server:
            # Here it listens already: launch the enclave.
            subprocess.run(["nitrohb", "send", "unix:enclave.sock"], check=True)
            beat = server.wait_heartbeat(timeout=60)

    When the block is entered every address is listening. When it is left everything is closed: who
    still waits for a heartbeat in another thread gets a :class:`ServerEndedError`. Entering waits
    for the thread to start, leaving for it to end; neither has anything to wait for beyond that.

    Args:
        *listen: As in :func:`serve_heartbeat`, like all the others.
        once: Answer one heartbeat per address. If false, go on until the block is left.
        allow_cids: The CIDs that are answered; None allows all of them.
        any_byte: Echo whatever the first byte is.
        handshake_timeout: Seconds that a connection may take from its acceptance to its echo.
        max_pending: How many connections may wait for their byte, on all addresses together.
        on_event: Called with every event, in the server's thread. It must not block, nor call the
            server.

    Yields:
        The server.

    Raises:
        AddressError, UsageError, ListenError: As :func:`serve_heartbeat` does, on entering.
        ExceptionGroup: The server failed, say because ``on_event`` raised: on leaving.
    """
    serve = partial(
        serve_heartbeat,
        *listen,
        once=once,
        allow_cids=allow_cids,
        any_byte=any_byte,
        handshake_timeout=handshake_timeout,
        max_pending=max_pending,
        on_event=on_event,
    )

    async def run(*, task_status: anyio.abc.TaskStatus[_Running]) -> None:
        with trio.CancelScope() as scope:
            await serve(task_status=_Started(task_status, scope))

    with start_blocking_portal("trio") as portal:
        serving, running = portal.start_task(run)
        try:
            yield ThreadServer(portal, running.server, running.thread)
        finally:
            portal.call(running.scope.cancel)
            serving.result()


@dataclass(frozen=True)
class _Running:
    """What the server's thread tells when the server has started."""

    server: HeartbeatServer
    scope: trio.CancelScope
    thread: int


class _Started(trio.TaskStatus[HeartbeatServer]):
    """Passes the server on, with what its caller needs to end it."""

    def __init__(
        self, task_status: anyio.abc.TaskStatus[_Running], scope: trio.CancelScope
    ) -> None:
        self._task_status = task_status
        self._scope = scope

    def started(self, value: HeartbeatServer) -> None:
        self._task_status.started(_Running(value, self._scope, threading.get_ident()))
