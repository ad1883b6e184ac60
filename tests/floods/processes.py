# SPDX-License-Identifier: Apache-2.0
"""The processes of a scenario. What they print goes to files, where it can block none of them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

PATIENCE = 100.0  # seconds; nothing here is measured by it
POLL = 0.01  # seconds

CLIENTS = Path(__file__).with_name("clients.py")
SERVER = (sys.executable, "-W", "error", "-m", "nitrohb", "serve", "--keep", "--format", "json")


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until something is so; it is an error if it never comes."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(POLL)


@dataclass(frozen=True)
class Under:
    """What a server is under: a command that ends by becoming it, and what that inherits."""

    command: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()


class Process:
    """A child. It is killed when its ``with`` block ends; its stdin ends with this process."""

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
        """What it has printed since the last call."""
        size = os.fstat(self._out.fileno()).st_size
        data = os.pread(self._out.fileno(), size - self._read, self._read)
        *lines, rest = data.split(b"\n")
        self._read += len(data) - len(rest)
        return map(json.loads, lines)

    def errors(self) -> str:
        """All that it has written to stderr."""
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
        self.goal = 0

    def look(self) -> None:
        for line in self.lines():
            self.goal = line.get("goal", self.goal)

    def has_reached_its_goal(self) -> bool:
        self.look()
        assert self.goal or self.popen.poll() is None, f"a client failed:\n{self.errors()}"
        return self.goal > 0

    def stop(self) -> None:
        """Let it end, as it does when its stdin ends."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        assert self.ends() == 0, self.errors()
        self.look()


class Enclave(Client):
    """The honest one.

    Attributes:
        waits: Seconds from before each connect() to its echo.
        failures: What happened instead of an echo.
        sent: How many heartbeats it has sent.
    """

    def __init__(self, address: str) -> None:
        super().__init__("honest", address)
        self.waits: list[float] = []
        self.failures: list[str] = []
        self.sent = 0

    def look(self) -> None:
        for line in self.lines():
            self.sent += "sent" in line
            self.waits += [line["wait"]] if "wait" in line else []
            self.failures += [line["failed"]] if "failed" in line else []

    def has_beaten(self, times: int) -> bool:
        self.look()
        assert self.popen.poll() is None, f"the enclave failed:\n{self.errors()}"
        return len(self.waits) + len(self.failures) >= times

    def beats(self, times: int) -> None:
        """Wait until it has been answered some more times."""
        self.look()
        goal = len(self.waits) + len(self.failures) + times
        until(lambda: self.has_beaten(goal), f"{times} more heartbeats, {self.failures}")

    def waits_for_its_echo(self) -> bool:
        self.look()
        return self.sent > len(self.waits) + len(self.failures)


class Server(Process):
    """The server under test.

    Attributes:
        counts: How many events of each name there were, and how many rejections of each reason.
    """

    def __init__(self, address: str, *options: str, under: Under) -> None:
        command = (*under.command, *SERVER, "--listen", address, *options)
        super().__init__(*command, pass_fds=under.descriptors)
        self.counts = Counter[str]()

    def count(self, *names: str) -> int:
        """How many events there were so far of some names, together."""
        for event in self.lines():
            self.counts[event["event"]] += 1
            self.counts[event.get("reason", "")] += 1
        assert self.popen.poll() is None, f"the server has ended:\n{self.errors()}"
        return sum(self.counts[name] for name in names)

    def reports(self, number: int, name: str) -> None:
        """Wait until there were so many events of a name."""
        until(lambda: self.count(name) >= number, f"{number} {name}")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.popen.pid}/fd"))

    def descriptors_at_rest(self) -> int:
        """How many it has open between two connections: the fewest of several looks."""
        return min(self.descriptors() for _ in range(50))

    def status(self, field: str) -> str:
        """A field of /proc/PID/status."""
        text = Path(f"/proc/{self.popen.pid}/status").read_text("utf-8")
        return next(line for line in text.splitlines() if line.startswith(f"{field}:")).split()[1]

    def peak_megabytes(self) -> float:
        """The most memory that it ever had resident."""
        return int(self.status("VmHWM")) / 1024

    def send(self, number: int) -> None:
        self.popen.send_signal(number)
