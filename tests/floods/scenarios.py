# SPDX-License-Identifier: Apache-2.0
"""The scenarios. Each causes trouble, and checks that the correct enclave is still answered."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from tests.uml import launcher

from .bed import Bed, Under, limit, until
from .clients import HEARTBEAT, connect
from .faults import AcceptFaults

Scenario = Callable[[Bed], None]

PATIENT = ("--handshake-timeout", "1000")  # no deadline ends a connection here, only an eviction
PENDING = 20
FEW = ("--max-pending", f"{PENDING}", *PATIENT)
MEBIBYTE = 1 << 20

# accept(2): "Linux accept() passes already-pending network errors on the new socket as an error
# code from accept()", and those of its list of errors that are about one connection.
OF_ONE_CONNECTION = (
    *(errno.EPERM, errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT),
    *(errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH),
    *(errno.ENOSR, errno.ESOCKTNOSUPPORT, errno.EPROTONOSUPPORT),
    *(errno.ENOTCONN, errno.ECONNRESET, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN),
)
EXHAUSTION = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FATAL = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT)


def silent_connections(bed: Bed) -> None:
    """Connections that send nothing: the oldest are evicted."""
    with bed.serving(*FEW) as (server, enclave), bed.flood("silent", (100,)) as flood:
        flood.reaches_its_goal()
        enclave.beats(3)
        server.reports(100 - PENDING, "evicted")


def opens_and_closes(bed: Bed) -> None:
    """A client that opens and closes as fast as it can.

    On AF_VSOCK a full queue resets the next connection, instead of letting it wait. The kernel of
    the tests has one CPU, of which the flood would get as much as the server. So the server has
    priority there, as a unit or a launcher can give it.
    """
    under = Under(("nice", "-n", "-10")) if launcher.inside() else Under()
    with bed.serving(under=under) as (server, enclave), bed.flood("churn", (200,)) as flood:
        flood.reaches_its_goal()
        enclave.beats(3)
        server.reports(200, "disconnected", "evicted")


def wrong_bytes(bed: Bed) -> None:
    """A client that sends wrong bytes, one connection after another."""
    with bed.serving() as (server, enclave), bed.flood("wrong", (5,)) as flood:
        flood.reaches_its_goal()
        enclave.beats(2)
        server.reports(5, "wrong-byte")


def megabytes(bed: Bed) -> None:
    """Clients that send megabytes: one after a heartbeat, one after a wrong byte."""
    with (
        bed.serving() as (server, enclave),
        bed.flood("megabytes", (3, HEARTBEAT[0]), (3, 0)) as flood,
    ):
        flood.reaches_its_goal()
        enclave.beats(2)
        server.reports(3, "wrong-byte")


def never_reads(bed: Bed) -> None:
    """A peer that sends heartbeats and never reads the echoes."""
    with bed.serving() as (server, enclave), bed.flood("deaf", (50,)) as flood:
        flood.reaches_its_goal()
        enclave.beats(3)
        server.reports(50, "heartbeat")


def few_descriptors(bed: Bed) -> None:
    """A flood with RLIMIT_NOFILE = 64."""
    with (
        bed.serving(*PATIENT, under=limit("nofile", 64), warning="(EMFILE)") as (server, enclave),
        bed.flood("silent", (100,)) as flood,
    ):
        flood.reaches_its_goal()
        enclave.beats(3)
        server.reports(100 - 64, "evicted")


def little_memory(bed: Bed) -> None:
    """64 MiB of memory: memory.max of a cgroup in a kernel of the tests, else RLIMIT_DATA."""
    group = MemoryGroup(64 * MEBIBYTE) if launcher.inside() else None
    under = group.under() if group else limit("data", 64 * MEBIBYTE)
    with bed.serving(under=under) as (server, enclave), bed.flood("silent", (100,)) as flood:
        if group is not None:
            assert group.has(server.popen.pid)
        flood.reaches_its_goal()
        enclave.beats(3)
        server.reports(100, "connected")


class MemoryGroup:
    """A cgroup with a memory limit, in a kernel that a test booted. It ends with that kernel."""

    ROOT = Path("/run/cgroup")

    def __init__(self, size: int) -> None:
        if not self.ROOT.exists():
            self.ROOT.mkdir()
            subprocess.run(["mount", "-t", "cgroup2", "none", str(self.ROOT)], check=True)
            (self.ROOT / "cgroup.subtree_control").write_text("+memory")
        self.path = self.ROOT / f"{time.monotonic_ns()}"
        self.path.mkdir()
        (self.path / "memory.max").write_text(str(size))

    def under(self) -> Under:
        """A command that enters the cgroup, and becomes a server."""
        return Under(("sh", "-c", 'echo 0 > "$0" && exec "$@"', str(self.path / "cgroup.procs")))

    def has(self, pid: int) -> bool:
        return str(pid) in (self.path / "cgroup.procs").read_text().split()


def stopped_and_continued(bed: Bed) -> None:
    """SIGSTOP and SIGCONT, while a flood and the enclave wait in the backlog."""
    with bed.serving(*FEW) as (server, enclave), bed.flood("silent", (100,)) as flood:
        flood.reaches_its_goal()
        for _ in range(2):
            with stopped(server.popen.pid):
                until(enclave.waits_for_its_echo, "the enclave has sent its byte")
                with bed.flood("silent", (100,)) as another:
                    another.reaches_its_goal()
            enclave.beats(2)


def stopped_past_its_deadline(bed: Bed) -> None:
    """An enclave sends its byte in time, but the server is stopped until after the deadline.

    The enclave is answered.
    """
    seconds = 3  # more than a busy machine needs from the connection to the stop
    with bed.serving("--handshake-timeout", f"{seconds}") as (server, enclave):
        known = server.count("connected")
        with connect(bed.client_address) as late:
            until(lambda: server.count("connected") > known, "it is accepted")
            enclave.beats(2)
            deadline = time.monotonic() + seconds
            with stopped(server.popen.pid):
                late.sendall(HEARTBEAT)
                until(lambda: time.monotonic() > deadline, "its time is over")
            assert late.recv(1) == HEARTBEAT
        enclave.beats(2)


@contextmanager
def stopped(pid: int) -> Generator[None]:
    """Stop a process until the end of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        stat = Path(f"/proc/{pid}/stat")
        until(lambda: stat.read_text("utf-8").rpartition(")")[2].split()[0] == "T", "it stops")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def failing_accepts(bed: Bed) -> None:
    """accept(2) fails because of one connection: each errno several times, while an enclave waits.

    A lack of descriptors or memory would evict the enclave if no other connection is pending.
    """
    with AcceptFaults() as faults, bed.serving(*PATIENT, under=faults.under) as (_, enclave):
        for number in OF_ONE_CONNECTION:
            faults.script(number, number, number)
            enclave.beats(2)
            until(faults.have_happened, "accept() has failed")


def exhausted_accepts(bed: Bed) -> None:
    """accept(2) fails for lack of descriptors or memory. Silent connections are evicted."""
    silent = 10 + len(EXHAUSTION)
    with (
        AcceptFaults() as faults,
        bed.serving(*PATIENT, under=faults.under, warning="(EMFILE)") as (server, enclave),
        bed.flood("silent", (silent,)),
    ):
        until(lambda: server.descriptors() > silent, "all are accepted")
        for gone, number in enumerate(EXHAUSTION, 1):
            # One can meet an empty backlog, and the next one takes the descriptor in reserve.
            faults.script(number, number, number)
            server.reports(gone, "evicted")
            enclave.beats(1)


def fatal_accepts(bed: Bed) -> None:
    """accept(2) fails because the listening socket is broken. That ends the server cleanly."""
    for number in FATAL:
        with (
            AcceptFaults() as faults,
            bed.server(under=faults.under) as server,
        ):
            faults.script(number)
            with connect(bed.client_address):
                assert server.ends() == 1
            said = server.errors()
            assert errno.errorcode[number] in said
            assert "Traceback" not in said


def stepping_clock(bed: Bed) -> None:
    """The clock steps by a day, back by two, to 1970 and to 2037, in a kernel of the tests."""
    day = 86_400.0
    with (
        bed.serving("--handshake-timeout", "3600") as (server, enclave),
        bed.flood("silent", (20,)) as flood,
        clock_set_right_again(),
    ):
        flood.reaches_its_goal()
        for moment in (time.time() + day, time.time() - 2 * day, day, 67 * 365 * day):
            set_clock(moment)
            enclave.beats(2)
        assert server.count("timeout") == 0


@contextmanager
def clock_set_right_again() -> Generator[None]:
    right = time.time() - time.monotonic()
    try:
        yield
    finally:
        set_clock(right + time.monotonic())


def set_clock(moment: float) -> None:
    """Set the clock of the kernel that a test booted, never that of the machine."""
    if not launcher.inside():
        raise RuntimeError("the clock is set only inside User Mode Linux")
    time.clock_settime(time.CLOCK_REALTIME, moment)


SCENARIOS: tuple[Scenario, ...] = (
    silent_connections,
    opens_and_closes,
    wrong_bytes,
    megabytes,
    few_descriptors,
    failing_accepts,
    exhausted_accepts,
    fatal_accepts,
    never_reads,
    little_memory,
    stopped_and_continued,
    stopped_past_its_deadline,
    stepping_clock,
)
INSIDE_ONLY = (stepping_clock,)
"""What is done to a kernel, and so only to one that we booted."""
ANY_SOCKET = (failing_accepts, fatal_accepts)
"""What replaces accept(2) alone, so that it is the same on any socket."""
