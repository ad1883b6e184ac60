# SPDX-License-Identifier: Apache-2.0
"""The server for programs without trio. It runs in a thread.

Two rules keep every call interruptible:

* Python handles a signal between two bytecodes. If it arrives just before a wait for a lock, it is
  handled after the wait. So every wait is short and repeated.
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
from .events import Event, Heartbeat
from .handle import HeartbeatServer
from .remedies import descriptor_shortage
from .server import serve_heartbeat
from .sockets.opening import ListenTarget, closing_stack

_SLICE: Final = 0.2  # seconds of each wait, after which Python handles signals

P = ParamSpec("P")
T = TypeVar("T")


class ThreadServer:
    """A server that runs in a thread. ``serve_in_thread()`` yields it.

    Call its methods from any thread except that of the server, which runs ``on_event``, and only in
    the process that started it. Otherwise they raise ``UsageError``. After the ``with`` block, they
    raise ``NoHeartbeatError``. The errors of ``HeartbeatServer`` apply as well.
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
        """Claim a heartbeat that has arrived, or block until one arrives.

        Args:
            cid: Claim only a heartbeat from this CID. Default: any.
            address: Claim only a heartbeat on this listen address. Default: any.
            max_age: Claim only a heartbeat that arrived at most this many seconds ago.
            timeout: Wait at most this many seconds. None waits without a limit.

        Returns:
            The heartbeat.

        Raises:
            HeartbeatTimeoutError: No heartbeat arrived in time. Its ``instead`` has what came
                instead.
            UsageError: As in ``HeartbeatServer.wait_heartbeat()``, or you called it in a trio task,
                whose event loop it would block.
            NoHeartbeatError: As in ``HeartbeatServer.wait_heartbeat()``. If the server failed,
                ``__cause__`` is its error.

        **Cancellation.** If ``KeyboardInterrupt`` interrupts a call, the call claims nothing,
        unless it already has a heartbeat: that heartbeat is lost. If you cancel
        ``asyncio.to_thread()``, the call still waits, and claims: so pass it a ``timeout``.
        """
        wait = partial(
            self._server.wait_heartbeat, cid=cid, address=address, max_age=max_age, timeout=timeout
        )
        return self._thread.call(wait, blocking=True)

    def last_heartbeats(self) -> list[Heartbeat]:
        """Return the last heartbeat of each enclave: see ``HeartbeatServer.last_heartbeats()``."""
        return self._call(self._server.last_heartbeats)

    def rearm(self, address: Address | str | None = None) -> None:
        """Drop pending connections and unclaimed heartbeats: see ``HeartbeatServer.rearm()``."""
        self._call(self._server.rearm, address)

    def listen(self, listen: ListenTarget) -> Address:
        """Listen on another address, and return it: see ``HeartbeatServer.listen()``."""
        closing = closing_stack([listen])

        def give() -> Address:
            closing.pop_all()  # from now on, the server closes it
            return self._server.listen(listen)

        with closing:
            return self._call(give)

    def unlisten(self, address: Address | str) -> None:
        """Remove an address, and close it: see ``HeartbeatServer.unlisten()``."""
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
    on_event: Callable[[Event], object] | None = None,
) -> Generator[ThreadServer]:
    """Serve heartbeats in a thread while a ``with`` block runs, for programs without trio.

    .. code-block:: python

        import subprocess

        from nitrohb import serve_in_thread

        with serve_in_thread("unix:enclave.sock") as server:
            # The server listens now, so start the enclave.
            vmm = subprocess.Popen(["nitrohb", "send", "unix:enclave.sock"])
            try:
                beat = server.wait_heartbeat(timeout=60)
            except BaseException:  # also Ctrl-C
                vmm.kill()
                raise
        vmm.wait()

    Every address listens when the block begins. When the block ends, everything is closed, and a
    thread that still waits for a heartbeat gets a ``NoHeartbeatError``.

    **Blocking.** Entering the block waits until every address listens. Leaving it waits until the
    thread has ended. If ``KeyboardInterrupt`` interrupts this, the server still ends, at the latest
    when the interpreter exits. In a forked child, leaving the block does nothing.

    Args:
        *listen: The listen addresses. All arguments are as for ``serve_heartbeat()``.
        keep: Answer every heartbeat. If false, answer one per address.
        allow_cids: On AF_VSOCK, answer only these CIDs.
        allow_uids: On Unix sockets, answer only these numeric user IDs.
        any_byte: Accept and echo any first byte.
        handshake_timeout: Seconds until a pending connection (one that has sent no byte) is closed.
        max_pending: The maximum number of pending connections.
        socket_mode: Permission bits of new socket files.
        socket_group: Numeric group ID of new socket files.
        on_event: A function that gets every ``Event``, in the thread of the server. It must neither
            block nor call the server.

    Yields:
        The server.

    Raises:
        AddressError, UsageError, ListenError: As ``serve_heartbeat()``, when you enter the block.
            If the server fails later, leaving the block raises the error.
        NitrohbError: As ``serve_heartbeat()``: the process has too few free descriptors.
        RuntimeError: Python cannot start another thread.
        UsageError: You enter or leave the block in a trio task. Use ``serve_heartbeat()`` there.
    """
    here = ("serve_in_thread()", "await nursery.start(serve_heartbeat, ...)")
    closing = closing_stack(listen)

    async def serve(task_status: trio.TaskStatus[HeartbeatServer]) -> None:
        closing.pop_all()  # from now on, the server closes them
        await serve_heartbeat(
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
            task_status=task_status,
        )

    with closing:
        _refuse_trio_tasks(*here)
        thread = _ServerThread(serve)
        try:
            yield ThreadServer(thread, thread.start())
        finally:
            try:
                thread.stop()
            except KeyboardInterrupt:  # perhaps the thread has not been told
                thread.stop()
                raise
    _refuse_trio_tasks(*here)


class _ServerThread(trio.TaskStatus[HeartbeatServer]):
    """A thread that runs a server in a trio loop. Other threads call into the loop."""

    def __init__(self, serve: Callable[..., Awaitable[object]]) -> None:
        self._serve = serve
        self._process = os.getpid()
        # A daemon, because it must not keep the interpreter from ending: see start().
        self._thread = threading.Thread(target=self._run, name="nitrohb server", daemon=True)
        self._servers: SimpleQueue[HeartbeatServer | None] = SimpleQueue()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._left = trio.Event()
        self._is_started = self._is_stopping = self._is_over = False
        self._failure: BaseException | None = None

    def start(self) -> HeartbeatServer:
        """Start the thread, and wait until the server listens. Raises the error of the server."""
        # If an interrupt comes before the "with" statement has begun its block, the server ends
        # only when the interpreter does.
        atexit.register(self.stop)
        _thread.start_new_thread(self._launch, ())
        server = self._receive(self._servers)
        if server is None:
            self.stop()
        assert server is not None
        return server

    def stop(self) -> None:
        """End the server, and wait for its thread. Raises the error of the server."""
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
        """Run a function as a task of the loop, and return its result. An interrupt cancels it."""
        if os.getpid() != self._process:
            raise UsageError("the server runs in another process\nCall it there.")
        if threading.current_thread() is self._thread:
            raise UsageError(
                "cannot call the server from on_event: its thread would wait for itself\n"
                "Call it from another thread."
            )
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
            # Wait for that: a heartbeat that comes after the interrupt is for the next call.
            cancelled: SimpleQueue[None] = SimpleQueue()
            self._tell(lambda: cancelled.put(scope.cancel()))
            with suppress(NoHeartbeatError):
                self._receive(cancelled)
            raise
        return future.result()

    def started(self, value: HeartbeatServer) -> None:
        """Pass the server, which listens now, to ``start()``."""
        self._is_started = True
        self._servers.put(value)

    def _tell(self, function: Callable[[], object]) -> None:
        """Let the loop call a function, if it still runs."""
        assert self._token is not None
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function)

    def _receive(self, queue: SimpleQueue[T]) -> T:
        while True:
            is_last_look = self._is_over  # is_alive() can be wrong after an interrupt
            with suppress(Empty):
                return queue.get(timeout=0 if is_last_look else _SLICE)
            if is_last_look:
                raise NoHeartbeatError(None, None, True) from self._failure

    def _launch(self) -> None:  # pragma: no cover - no tracer sees a thread of _thread
        """Start the thread from another one, because an interrupt can break Thread.start()."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads are possible
            self._failure = error
            self._end()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - stop() raises it
            number = error.errno if isinstance(error, OSError) and not self._is_started else None
            self._failure = descriptor_shortage(number) or error
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
            f"{what} would block the event loop of this trio task\nWrite instead: {instead}"
        )
