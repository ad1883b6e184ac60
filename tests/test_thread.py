# SPDX-License-Identifier: Apache-2.0
"""The server in a thread, from plain Python and from asyncio. Real threads, and no deadlock."""

import _thread
import asyncio
import errno
import os
import random
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from nitrohb import (
    AddressError,
    Event,
    Heartbeat,
    HeartbeatTimeoutError,
    ListenError,
    NitrohbError,
    NoHeartbeatError,
    Rejected,
    ThreadServer,
    UnixAddress,
    UsageError,
    serve_in_thread,
)
from nitrohb.thread import _ServerThread  # pyright: ignore[reportPrivateUsage]
from tests.cli.process import PATIENCE, wait_for
from tests.support import B7


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "hb"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = len(os.listdir("/proc/self/task"))
    yield
    # A server whose start was interrupted can still be ending.
    wait_for(lambda: len(os.listdir("/proc/self/task")) <= before)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def boot(path: Path) -> None:
    """Act as the init of an enclave, with blocking calls."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(B7)
        assert sock.recv(2) == B7


def test_it_listens_during_the_whole_block(path: Path) -> None:
    with serve_in_thread(f"unix:{path}") as server:
        assert server.addresses == (UnixAddress(str(path)),)
        boot(path)
        beat = server.wait_heartbeat()
        assert beat.echoed
        assert server.last_heartbeats() == [beat]
    assert not path.exists()


def test_a_wait_before_or_after_the_heartbeat(path: Path, pool: ThreadPoolExecutor) -> None:
    with serve_in_thread(f"unix:{path}", keep=True) as server:
        asking = [pool.submit(server.wait_heartbeat) for _ in range(3)]
        for _ in asking:
            boot(path)
        beats = {id(each.result()) for each in asking}
        assert len(beats) == 3


def test_its_arguments_are_those_of_the_server(path: Path) -> None:
    events: list[Event] = []
    with serve_in_thread(f"unix:{path}", any_byte=True, on_event=events.append) as server:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"?")
            assert sock.recv(2) == b"?"
        server.wait_heartbeat(address=f"unix:{path}", max_age=10)
    assert [event.name for event in events] == ["listening", "connected", "heartbeat", "done"]


def test_a_wait_times_out(path: Path) -> None:
    with serve_in_thread(f"unix:{path}", keep=True) as server:
        with pytest.raises(HeartbeatTimeoutError, match=r"0\.25 s"):
            server.wait_heartbeat(timeout=0.25)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"x")
            assert sock.recv(1) == b""
        with pytest.raises(HeartbeatTimeoutError, match=f"unix:{path} .*1 sent 0x78 ") as caught:
            server.wait_heartbeat(address=f"unix:{path}", timeout=0)
        (event,) = caught.value.instead
        assert isinstance(event, Rejected)
        assert event.byte == ord("x")
        boot(path)
        assert server.wait_heartbeat(timeout=60).echoed


def test_rearm_drops_heartbeats(path: Path) -> None:
    with serve_in_thread(f"unix:{path}", keep=True) as server:
        boot(path)
        server.rearm()
        boot(path)
        server.rearm(f"unix:{path}")
        with pytest.raises(HeartbeatTimeoutError):
            server.wait_heartbeat(timeout=0)
        boot(path)
        assert server.wait_heartbeat(timeout=0).echoed


def test_addresses_come_and_go(path: Path) -> None:
    other = path.with_name("other")
    with serve_in_thread(f"unix:{path}", keep=True, socket_mode=0o620) as server:
        added = server.listen(f"unix:{other}")
        assert [*map(str, server.addresses)] == [f"unix:{path}", str(added)]
        assert stat.S_IMODE(other.stat().st_mode) == 0o620
        server.unlisten(f"unix:{path}")
        assert [*map(str, server.addresses)] == [f"unix:{other}"]
        assert not path.exists()
        with pytest.raises(UsageError, match="does not listen"):
            server.unlisten(f"unix:{path}")
        with pytest.raises(ListenError):
            server.listen(f"unix:{path}/not/there/yet")
    with pytest.raises(NoHeartbeatError):
        server.listen(f"unix:{path}")
    with pytest.raises(NoHeartbeatError):
        server.unlisten(added)


def test_wrong_arguments_are_errors_of_the_caller(path: Path) -> None:
    with serve_in_thread(f"unix:{path}") as server:
        with pytest.raises(UsageError, match="have no CID"):
            server.wait_heartbeat(cid=16)
        with pytest.raises(UsageError, match="does not listen on"):
            server.rearm("unix:/elsewhere")


@pytest.mark.parametrize(
    ("listen", "options", "error"),
    [
        ("unix:/nowhere/at/all", {}, ListenError),
        ("nonsense", {}, AddressError),
        ("unix:x", {"max_pending": 0}, UsageError),
    ],
)
def test_a_server_that_cannot_listen(
    listen: str, options: dict[str, Any], error: type[NitrohbError]
) -> None:
    with pytest.raises(error), serve_in_thread(listen, **options):
        pytest.fail("it was entered")


def test_an_exception_in_the_block_closes_everything(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), serve_in_thread(f"unix:{path}"):
        raise ZeroDivisionError
    assert not path.exists()


@pytest.mark.parametrize("once", [True, False])
def test_the_end_comes_during_a_wait(path: Path, pool: ThreadPoolExecutor, once: bool) -> None:
    with serve_in_thread(f"unix:{path}", keep=not once) as server:
        asking = pool.submit(server.wait_heartbeat)
    with pytest.raises(NoHeartbeatError):
        asking.result()


def test_an_exception_in_the_block_comes_during_a_wait(
    path: Path, pool: ThreadPoolExecutor
) -> None:
    def ask_and_fail() -> None:
        with serve_in_thread(f"unix:{path}") as server:
            asking.append(pool.submit(server.wait_heartbeat))
            raise ZeroDivisionError

    asking: list[Future[Heartbeat]] = []
    with pytest.raises(ZeroDivisionError):
        ask_and_fail()
    with pytest.raises(NoHeartbeatError):
        asking[0].result()


def test_a_wait_after_the_end(path: Path) -> None:
    with serve_in_thread(f"unix:{path}") as server:
        pass
    calls: list[Callable[[], object]] = [
        server.wait_heartbeat,
        server.last_heartbeats,
        server.rearm,
    ]
    for call in calls:
        with pytest.raises(NoHeartbeatError):
            call()


def test_a_failure_in_the_thread_is_raised_by_the_wait_and_the_block(
    path: Path, pool: ThreadPoolExecutor
) -> None:
    def fail(event: Event) -> None:
        if event.name == "connected":
            raise ZeroDivisionError

    asking: list[Future[Heartbeat]] = []
    with (
        pytest.RaisesExc(ZeroDivisionError),
        serve_in_thread(f"unix:{path}", on_event=fail) as server,
    ):
        asking.append(pool.submit(server.wait_heartbeat))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert sock.recv(1) == b""
        with pytest.raises(NoHeartbeatError):
            asking[0].result()
    assert not path.exists()


def test_a_wait_raises_the_error_of_the_server(path: Path, pool: ThreadPoolExecutor) -> None:
    waits = threading.Event()

    def fail(event: Event) -> None:
        if event.name == "connected":
            waits.wait()
            raise ZeroDivisionError

    with (
        pytest.RaisesExc(ZeroDivisionError),
        serve_in_thread(f"unix:{path}", on_event=fail) as server,
    ):
        asking = pool.submit(server.wait_heartbeat)
        with pytest.raises(HeartbeatTimeoutError):
            server.wait_heartbeat(timeout=0)  # it begins after the other one, which waits already
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            waits.set()
            sock.recv(1)
        error = asking.exception()
        assert isinstance(error, NoHeartbeatError)
        assert isinstance(error.__cause__, ZeroDivisionError)


def test_a_call_from_on_event_raises_an_error(path: Path) -> None:
    servers: list[ThreadServer] = []
    ready = threading.Event()

    def call(event: Event) -> None:
        if event.name == "connected":
            ready.wait()
            servers[0].last_heartbeats()

    with (
        pytest.RaisesExc(UsageError, match="on_event"),
        serve_in_thread(f"unix:{path}", on_event=call) as server,
    ):
        servers.append(server)
        ready.set()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert sock.recv(1) == b""


@pytest.fixture
def interrupts() -> Iterator[Callable[[float], None]]:
    """A function that raises KeyboardInterrupt in this thread, some seconds after its call.

    SIGALRM stands in for SIGINT because a timer can send it. It is sent again after 2 s, as a
    person would press Ctrl-C again: Python swallows one that it raises in a ``__del__``.
    """
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds, 2) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def await_interrupt() -> None:
    """Wait for the interrupt. ``signal.pause()`` would miss one that comes just before."""
    while True:
        pass


@pytest.mark.timeout(method="thread")  # the other method needs SIGALRM, too
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_wait_can_be_interrupted_at_any_point(
    path: Path, interrupts: Callable[[float], None]
) -> None:
    """In half of the 2,000 rounds a heartbeat has arrived, so the call runs all of its code."""
    rng = random.Random(0)
    with serve_in_thread(f"unix:{path}", keep=True) as server:
        for round_ in range(2000):
            server.rearm()
            if round_ % 2:
                boot(path)
            with suppress(KeyboardInterrupt):
                interrupts(rng.uniform(1e-6, 6e-4))
                server.wait_heartbeat()
                await_interrupt()
            interrupts(0)
            assert len(server.last_heartbeats()) <= 1
        server.rearm()
        boot(path)
        assert server.wait_heartbeat(timeout=10) in server.last_heartbeats()


@pytest.mark.timeout(method="thread")
def test_an_interrupted_wait_claims_nothing(
    path: Path, interrupts: Callable[[float], None]
) -> None:
    with serve_in_thread(f"unix:{path}", keep=True) as server:
        interrupts(0.05)
        with pytest.raises(KeyboardInterrupt):
            server.wait_heartbeat()
        interrupts(0)
        boot(path)
        assert server.wait_heartbeat(timeout=10) in server.last_heartbeats()


@pytest.mark.timeout(method="thread")
def test_an_interrupt_between_two_waits_ends_the_call(
    path: Path, interrupts: Callable[[float], None]
) -> None:
    """The signal arrives just before a wait for a lock: another thread gets it, and sets a flag."""
    with serve_in_thread(f"unix:{path}", keep=True) as server:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        began = time.monotonic()
        try:
            interrupts(0.05)
            with pytest.raises(KeyboardInterrupt):
                server.wait_heartbeat(timeout=PATIENCE)
        finally:
            interrupts(0)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.timeout(method="thread")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_entering_and_leaving_can_be_interrupted_at_any_point(
    path: Path, interrupts: Callable[[float], None]
) -> None:
    rng = random.Random(0)
    for _ in range(300):
        with suppress(KeyboardInterrupt):
            interrupts(rng.uniform(1e-6, 4e-3))
            with serve_in_thread(f"unix:{path}"):
                pass
            await_interrupt()
        interrupts(0)
        wait_for(lambda: not path.exists())


def test_an_interrupt_comes_before_the_loop_has_begun(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, run = _thread.start_new_thread, trio.run

    def interrupted_start(function: Callable[[], None], arguments: tuple[()]) -> None:
        start(function, arguments)
        wait_for(lambda: "nitrohb server" in {each.name for each in threading.enumerate()})
        raise KeyboardInterrupt

    def late_run(main: Any) -> None:
        wait_for(lambda: main.__self__._is_stopping)
        run(main)

    monkeypatch.setattr(_thread, "start_new_thread", interrupted_start)
    monkeypatch.setattr(trio, "run", late_run)
    with pytest.raises(KeyboardInterrupt), serve_in_thread(f"unix:{path}"):
        pytest.fail("it was entered")
    assert not path.exists()


def test_an_interrupt_comes_before_the_server_is_told_to_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, interrupts = _ServerThread.stop, [KeyboardInterrupt()]

    def interrupted_stop(thread: _ServerThread) -> None:
        if interrupts:
            raise interrupts.pop()
        stop(thread)

    monkeypatch.setattr(_ServerThread, "stop", interrupted_stop)
    with pytest.raises(KeyboardInterrupt), serve_in_thread(f"unix:{path}"):
        assert path.exists()
    assert not path.exists()


def test_no_more_threads_can_be_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="new thread"), serve_in_thread(f"unix:{path}"):
        pytest.fail("it was entered")


def test_too_few_descriptors_are_explained(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def epoll() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(select, "epoll", epoll)  # trio creates one first
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        with pytest.raises(NitrohbError, match="ulimit"), serve_in_thread(sock):
            pytest.fail("it was entered")
        assert sock.fileno() == -1


def test_a_socket_belongs_to_a_server_that_has_ended(path: Path) -> None:
    with serve_in_thread(f"unix:{path}") as server:
        pass
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        with pytest.raises(NoHeartbeatError):
            server.listen(sock)
        assert sock.fileno() == -1


def test_a_block_that_is_never_left_ends_with_the_process_but_not_with_a_forked_child(
    tmp_path: Path,
) -> None:
    """An interrupt can come when the server runs and the with statement has not begun its block."""
    program = """if True:
        import os
        from nitrohb import UsageError, serve_in_thread
        block = serve_in_thread("unix:hb")
        server = block.__enter__()
        child = os.fork()
        if not child:
            try:
                server.wait_heartbeat(timeout=0.1)
            except UsageError:
                block.__exit__(None, None, None)
                os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.path.exists("hb"))
        """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7 True\n", "")
    assert os.listdir(tmp_path) == []


def test_in_a_trio_task_it_refuses_what_would_block_the_loop(path: Path) -> None:
    async def main() -> None:
        with pytest.raises(UsageError, match="serve_heartbeat"), serve_in_thread(f"unix:{path}"):
            pytest.fail("it was entered")
        with pytest.raises(UsageError, match="to_thread"):
            server.wait_heartbeat()
        assert server.last_heartbeats() == []
        server.rearm()
        with pytest.raises(UsageError, match="serve_heartbeat"):
            stack.close()
        with pytest.raises(NoHeartbeatError):
            server.last_heartbeats()

    stack = ExitStack()
    server = stack.enter_context(serve_in_thread(f"unix:{path}"))
    trio.run(main)
    assert not path.exists()


def test_a_wait_after_the_failure_raises_its_error(path: Path) -> None:
    def fail(event: Event) -> None:
        if event.name == "heartbeat":
            raise ZeroDivisionError

    with (
        pytest.RaisesExc(ZeroDivisionError),
        serve_in_thread(f"unix:{path}", keep=True, on_event=fail) as server,
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(B7)
        for _ in range(2):  # while it fails, and afterwards
            with pytest.raises(NoHeartbeatError, match=r"^no .*: the server has ended$") as ended:
                server.wait_heartbeat()
            assert isinstance(ended.value.__cause__, ZeroDivisionError)


def test_from_asyncio(path: Path) -> None:
    async def launch() -> Heartbeat:
        with serve_in_thread(f"unix:{path}") as server:
            waiting = asyncio.create_task(asyncio.to_thread(server.wait_heartbeat, timeout=60))
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(B7)
            assert await reader.read(2) == B7
            writer.close()
            await writer.wait_closed()
            return await waiting

    assert asyncio.run(launch()).echoed


def test_from_asyncio_cancelled(path: Path) -> None:
    """The thread keeps waiting until the block ends."""

    async def launch() -> None:
        with serve_in_thread(f"unix:{path}") as server:
            waiting = asyncio.create_task(asyncio.to_thread(server.wait_heartbeat))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(launch())
