# SPDX-License-Identifier: Apache-2.0
"""The server for programs without trio: it runs in a thread.

Two rules keep every call interruptible:

* Python handles a signal between two bytecodes. If it arrives just before a wait for a lock, it is
  handled after the wait. So every wait is short, and is repeated.
* An interrupt must not leave a lock held. So answers come through ``queue.SimpleQueue``, whose
  methods a signal handler cannot interrupt.
"""

import _thread
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Collection, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, ParamSpec, TypeVar

import trio

from .addresses import Address
from .errors import NoHeartbeatError, UsageError
from .events import Heartbeat
from .handle import HeartbeatServer
from .server import OnEvent, serve_heartbeat
from .sockets.opening import ListenTarget

_SLICE: Final = 0.2  # seconds between two looks for signals

P = ParamSpec("P")
T = TypeVar("T")


class ThreadServer:
    """A server that runs in a thread, as ``serve_in_thread()`` yields it.

    Call its methods from any thread but the server's own, which runs ``on_event``, and only in the
    process that started it: elsewhere they raise ``UsageError``.
    """

    def __init__(self, thread: "_ServerThread", server: HeartbeatServer) -> None:
        self._thread = thread
        self._server = server

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The listen addresses, as in ``HeartbeatServer.addresses``."""
        return self._server.addresses

    def wait_heartbeat(
        self,
        *,
        cid: int | None = None,
        address: Address | str | None = None,
        max_age: float = 60.0,
        timeout: float | None = None,
    ) -> Heartbeat:
        """Claim a heartbeat, as ``HeartbeatServer.wait_heartbeat()`` does. Blocks until it comes.

        Args:
            cid: Accept only heartbeats of the enclave with this CID.
            address: Accept only heartbeats on this listen address.
            max_age: Accept a heartbeat that arrived at most so many seconds ago.
            timeout: Wait so many seconds at most. None waits without a limit.

        Returns:
            The heartbeat.

        Raises:
            HeartbeatTimeoutError: No heartbeat arrived in time. It has what came instead.
            UsageError: As in ``HeartbeatServer.wait_heartbeat()``, or you called it in a trio
                task, whose event loop it would block.
            NoHeartbeatError: The server has ended, or has closed the address. If the server failed,
                its failure is the ``__cause__``.

        An interrupted wait, as by KeyboardInterrupt, claims nothing, unless it is about to return a
        heartbeat: then nobody gets that. A cancelled ``asyncio.to_thread()`` waits on, and claims.
        """
        wait = partial(
            self._server.wait_heartbeat, cid=cid, address=address, max_age=max_age, timeout=timeout
        )
        return self._thread.call(wait, blocking=True)

    def last_heartbeats(self) -> list[Heartbeat]:
        """Return the last heartbeat of each enclave: see ``HeartbeatServer.last_heartbeats()``.

        Raises:
            NoHeartbeatError: The server's ``with`` block has been left.
        """
        return self._call(self._server.last_heartbeats)

    def rearm(self, address: Address | str | None = None) -> None:
        """Start over, on one address or on all: see ``HeartbeatServer.rearm()``.

        Raises:
            UsageError: The server does not listen on this address, or no longer does.
            NoHeartbeatError: The server's ``with`` block has been left.
        """
        self._call(self._server.rearm, address)

    def listen(self, listen: ListenTarget) -> Address:
        """Listen on another address, or change nothing: see ``HeartbeatServer.listen()``.

        Raises:
            AddressError, UsageError, ListenError: As there.
            NoHeartbeatError: The server's ``with`` block has been left.
        """
        return self._call(self._server.listen, listen)

    def unlisten(self, address: Address | str) -> None:
        """Remove an address, as if it had never been named: see ``HeartbeatServer.unlisten()``.

        Raises:
            UsageError: The server does not listen on this address.
            NoHeartbeatError: The server's ``with`` block has been left.
        """
        self._call(self._server.unlisten, address)

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async def call() -> T:
            return function(*args, **kwargs)

        return self._thread.call(call)


@contextmanager
def serve_in_thread(
    *listen: ListenTarget,
    keep: bool = False,
    allow_cids: Collection[int] | None = None,
    allow_uids: Collection[int] | None = None,
    any_byte: bool = False,
    handshake_timeout: float = 5.0,
    max_pending: int = 1024,
    socket_mode: int = 0o600,
    socket_group: int | None = None,
    on_event: OnEvent | None = None,
) -> Generator[ThreadServer]:
    """Serve heartbeats in a thread while the ``with`` block runs: for programs without trio.

    .. code-block:: python

        import subprocess

        from nitrohb import serve_in_thread

        with serve_in_thread("unix:enclave.sock") as server:
            # Here it listens already: launch the enclave.
            vmm = subprocess.Popen(["nitrohb", "send", "unix:enclave.sock"])
            beat = server.wait_heartbeat(timeout=60)
        vmm.wait()

    When the block begins, every address listens. When it ends, everything is closed, and a thread
    that still waits for a heartbeat gets a ``NoHeartbeatError``. Entering blocks until the
    server's thread has started, leaving until it has ended. An interrupt ends the server, at the
    latest when the interpreter exits. A forked child can leave the block: nothing happens.

    Args:
        *listen: As in ``serve_heartbeat()``, like all the others.
        keep: Go on after a heartbeat.
        allow_cids: The CIDs to answer on AF_VSOCK.
        allow_uids: The numeric users to answer on Unix sockets.
        any_byte: Echo any first byte.
        handshake_timeout: Seconds that a connection may stay silent.
        max_pending: How many connections may be silent at a time.
        socket_mode: Permission bits of the socket files that it creates.
        socket_group: Numeric group of the socket files that it creates.
        on_event: Called with every event, in the server's thread. It must neither block nor call
            the server.

    Yields:
        The server.

    Raises:
        AddressError, UsageError, ListenError: As ``serve_heartbeat()`` does, on entering. The
            error of a server that fails later, or of ``on_event``, is raised on leaving.
        UsageError: You enter or leave it in a trio task: use ``serve_heartbeat()`` there. On
            leaving, the server ends all the same.
    """
    here = ("serve_in_thread()", "await nursery.start(serve_heartbeat, ...)")
    _refuse_trio_tasks(*here)
    serve = partial(
        serve_heartbeat,
        *listen,
        keep=keep,
        allow_cids=allow_cids,
        allow_uids=allow_uids,
        any_byte=any_byte,
        handshake_timeout=handshake_timeout,
        max_pending=max_pending,
        socket_mode=socket_mode,
        socket_group=socket_group,
        on_event=on_event,
    )
    thread = _ServerThread(serve)
    try:
        yield ThreadServer(thread, thread.start())
    finally:
        try:
            thread.stop()
        except KeyboardInterrupt:  # perhaps before the thread was told
            thread.stop()
            raise
    _refuse_trio_tasks(*here)


class _ServerThread(trio.TaskStatus[HeartbeatServer]):
    """A thread with a trio loop that runs a server, and into which other threads call."""

    def __init__(self, serve: Callable[..., Awaitable[object]]) -> None:
        self._serve = serve
        self._process = os.getpid()
        # A daemon, so that it never keeps the interpreter from ending: see start().
        self._thread = threading.Thread(target=self._run, name="nitrohb server", daemon=True)
        self._servers: SimpleQueue[HeartbeatServer | None] = SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._left = trio.Event()
        self._is_started = self._is_stopping = self._is_over = False
        self._failure: BaseException | None = None

    def start(self) -> HeartbeatServer:
        """Start the thread, and wait until the server listens. Raises its failure."""
        # An interrupt can come before the "with" statement knows that its block has begun.
        # Then only the interpreter's end is left to end the server.
        atexit.register(self.stop)
        _thread.start_new_thread(self._launch, ())
        server = self._receive(self._servers)
        if server is None:
            self.stop()
        assert server is not None
        return server

    def stop(self) -> None:
        """End the server, and wait for its thread. Raises its failure."""
        if os.getpid() != self._process:  # a forked child has no such thread
            return
        self._is_stopping = True
        if self._token is not None:
            self._tell(self._leave)
        if self._thread.ident is not None:
            while not self._is_over:
                with suppress(Empty):
                    self._servers.get(timeout=_SLICE)
            self._thread.join()
        atexit.unregister(self.stop)
        if self._failure is not None:
            raise self._failure

    def call(self, function: Callable[[], Awaitable[T]], *, blocking: bool = False) -> T:
        """Run a function as a task of the loop. An interrupt cancels the task."""
        if os.getpid() != self._process:
            raise UsageError("called in a forked process: the server runs in its parent")
        if threading.current_thread() is self._thread:
            raise UsageError("called in the server's own thread, from on_event: it would be stuck")
        if blocking:
            _refuse_trio_tasks(
                "wait_heartbeat()", "await trio.to_thread.run_sync(server.wait_heartbeat)"
            )
        answers: SimpleQueue[Future[T]] = SimpleQueue()
        scope = trio.CancelScope()

        async def answer() -> None:
            future: Future[T] = Future()
            with scope:
                try:
                    future.set_result(await function())
                except Exception as error:  # noqa: BLE001 - the caller gets it
                    future.set_exception(error)
                answers.put(future)

        try:
            self._tell(partial(trio.lowlevel.spawn_system_task, answer))
            future = self._receive(answers)
        except BaseException:
            # Wait for it, too: a heartbeat that comes after the interrupt is for the next call.
            cancelled: SimpleQueue[None] = SimpleQueue()
            self._tell(lambda: cancelled.put(scope.cancel()))
            with suppress(NoHeartbeatError):
                self._receive(cancelled)
            raise
        return future.result()

    def started(self, value: HeartbeatServer) -> None:
        """Pass on the server, as it listens now."""
        self._is_started = True
        self._servers.put(value)

    def _tell(self, function: Callable[[], object]) -> None:
        """Have the loop call a function, if it still runs."""
        assert self._token is not None
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def _receive(self, queue: SimpleQueue[T]) -> T:
        while True:
            is_last_look = self._is_over  # is_alive() can be wrong once it has been interrupted
            with suppress(Empty):
                return queue.get(timeout=0 if is_last_look else _SLICE)
            if is_last_look:
                raise NoHeartbeatError(None, None, True) from self._failure

    def _launch(self) -> None:  # pragma: no cover - no tracer sees a thread of _thread
        """Start the thread from another one, as an interrupt may keep Thread.start() from it."""
        try:
            self._thread.start()
        except RuntimeError as error:  # there can be no more threads
            self._failure = error
            self._end()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - stop() raises it
            self._failure = error
        self._end()

    def _end(self) -> None:
        self._is_over = True
        self._servers.put(None)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._is_stopping:  # stop() had no token yet
            return
        try:
            with self._scope:
                await self._serve(task_status=self)
        finally:
            if self._is_started:  # calls are answered until the block is left
                await self._left.wait()

    def _leave(self) -> None:
        self._scope.cancel()
        self._left.set()


def _refuse_trio_tasks(what: str, instead: str) -> None:
    if trio.lowlevel.in_trio_run():
        raise UsageError(
            f"{what} would block the event loop of this trio task\nHere, write: {instead}"
        )
