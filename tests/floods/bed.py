# SPDX-License-Identifier: Apache-2.0
"""The parts of a scenario: an address, the server, the correct enclave, the flooders.

On a Unix socket every client is a separate peer, because the server knows its process. On the
loopback of AF_VSOCK all clients have CID 1, and are one peer. There the enclave is answered because
it sends its byte at once, so it is never pending.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PATIENCE = 60.0  # seconds: a limit, not a measurement
POLL = 0.01  # seconds

CLIENTS = Path(__file__).with_name("clients.py")
SERVER = (sys.executable, "-W", "error", "-m", "nitrohb", "serve", "--keep", "--format", "json")


def until(condition: Callable[[], object], what: str) -> None:
    """Poll until a condition is true. After the time limit, fail."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s: {what}"
        time.sleep(POLL)


@dataclass(frozen=True)
class Under:
    """What starts a server: a command that becomes the server by exec, and what it inherits."""

    command: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()


class Process:
    """A child process. The end of its ``with`` block kills it. Its stdin ends with this process."""

    def __init__(self, *command: str, pass_fds: tuple[int, ...] = ()) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._read = 0
        try:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self._out,
                stderr=self._err,
                pass_fds=pass_fds,
            )
        except BaseException:
            self._out.close()
            self._err.close()
            raise

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines that it has printed since the last call."""
        size = os.fstat(self._out.fileno()).st_size
        data = os.pread(self._out.fileno(), size - self._read, self._read)
        *lines, rest = data.split(b"\n")
        self._read += len(data) - len(rest)
        return map(json.loads, lines)

    def errors(self) -> str:
        """Its output on stderr so far."""
        return os.pread(self._err.fileno(), 100_000, 0).decode()

    def ends(self) -> int:
        """Wait for its end, and return its exit code."""
        return self.popen.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        self._out.close()
        self._err.close()


class Client(Process):
    """A flooder, or any other client; see :mod:`.clients`."""

    def __init__(self, role: str, address: str, *numbers: float) -> None:
        program = (sys.executable, "-IS", str(CLIENTS))
        super().__init__(*program, role, address, *map(str, numbers))
        self.counts = Counter[str]()
        self.failures: list[str] = []

    def count(self, *names: str) -> int:
        """The number of lines of some names that it has printed so far."""
        for line in self.lines():
            self.counts.update(line.keys())
            self.failures += [line["failed"]] if "failed" in line else []
        return sum(self.counts[name] for name in names)

    def has(self, times: int, *names: str) -> bool:
        """Wait until it has printed so many lines of some names. After the time limit, fail."""
        enough = self.count(*names) >= times
        assert enough or self.popen.poll() is None, f"a client failed:\n{self.errors()}"
        return enough

    def stop(self) -> None:
        """End it: it ends when its stdin does."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        assert self.ends() == 0, self.errors()
        self.count()


class Enclave(Client):
    """The correct enclave. Its ``failures`` say what happened instead of an echo."""

    def __init__(self, address: str) -> None:
        super().__init__("correct", address)

    def beats(self, times: int) -> None:
        """Wait until it has had some more echoes."""
        goal = self.count("echoed", "failed") + times
        until(
            lambda: self.has(goal, "echoed", "failed"),
            f"{times} more heartbeats, {self.failures}",
        )

    def waits_for_its_echo(self) -> bool:
        return self.count("sent") > self.count("echoed", "failed")


class Server(Process):
    """The server under test.

    Attributes:
        counts: The number of events of each name, and of rejections of each reason.
    """

    def __init__(self, address: str, *options: str, under: Under) -> None:
        command = (*under.command, *SERVER, "--listen", address, *options)
        super().__init__(*command, pass_fds=under.descriptors)
        self.counts = Counter[str]()

    def count(self, *names: str) -> int:
        """The number of events of some names so far."""
        for event in self.lines():
            self.counts[event["event"]] += 1
            self.counts[event.get("reason", "")] += 1
        assert self.popen.poll() is None, f"the server has ended:\n{self.errors()}"
        return sum(self.counts[name] for name in names)

    def reports(self, number: int, *names: str) -> None:
        """Wait until there were so many events of some names."""
        until(lambda: self.count(*names) >= number, f"{number} {names}")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.popen.pid}/fd"))

    def descriptors_at_rest(self) -> int:
        """The number of descriptors that it has open between connections: the least of several."""
        return min(self.descriptors() for _ in range(50))

    def send(self, number: int) -> None:
        self.popen.send_signal(number)


class Bed:
    """One run of one scenario, with a server that listens on ``address``."""

    def __init__(self, address: str) -> None:
        self.address = address

    @contextmanager
    def serving(
        self, *options: str, under: Under = Under(), warning: str = ""
    ) -> Generator[tuple[Server, Enclave]]:
        """Run a server, and an enclave that sends heartbeats until the end of the block.

        At the end, without the clients of the block, the server has no more descriptors open than
        at the beginning, every heartbeat was echoed, and SIGTERM ends it. It has printed nothing
        to stderr except one expected warning.
        """
        with self.server(*options, under=under) as server, Enclave(self.client_address) as enclave:
            enclave.beats(2)  # by then the server has opened all that it needs
            start = server.descriptors_at_rest()
            yield server, enclave
            enclave.stop()
            until(lambda: server.descriptors() <= start, "all descriptors are closed again")
            assert not enclave.failures, enclave.failures
            server.send(signal.SIGTERM)
            assert server.ends() == 128 + signal.SIGTERM
            said = server.errors().splitlines()
            assert (len(said), warning in "".join(said)) == (bool(warning), True), said

    @contextmanager
    def server(self, *options: str, under: Under) -> Generator[Server]:
        """A server that listens when the block begins."""
        with Server(self.address, *options, under=under) as server:
            until(lambda: server.count("listening"), "the server listens")
            yield server

    @property
    def client_address(self) -> str:
        """The address for clients, with the CID of the loopback if the server listens on any."""
        return self.address.replace("vsock::", "vsock:1:")

    @contextmanager
    def flood(self, role: str, *clients: tuple[float, ...]) -> Generator["Flood"]:
        """Start clients of a role, one for each tuple of numbers: see :mod:`.clients`."""
        with ExitStack() as stack:
            address = self.client_address
            flood = Flood([stack.enter_context(Client(role, address, *each)) for each in clients])
            yield flood
            for client in flood.clients:
                client.stop()


@dataclass(frozen=True)
class Flood:
    """Clients that run until the end of a ``with`` block."""

    clients: list[Client]

    def reaches_its_goal(self) -> None:
        """Wait until every client has reached its goal. It then goes on."""
        until(lambda: all(each.has(1, "goal") for each in self.clients), "the flood")


def limit(which: str, value: int) -> Under:
    """A limit of resources, by its name in prlimit(1)."""
    return Under(("prlimit", f"--{which}={value}"))
