# SPDX-License-Identifier: Apache-2.0
"""Times how much clients of the HTTP interface delay heartbeats: none, quiet ones, hostile ones.

Each kind of clients gets a new server. Heartbeats come one by one, at random times. The server has
its own core. The clients of the interface share the other core with the client whose heartbeats
are timed. That client and the server have priority on their cores, if this user has the permission,
so that only delays in the server are measured.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from . import observe
from .contestants import Tools
from .hostile import KINDS
from .measure import Metrics, Round
from .processes import Cores, Server, prefer

__all__ = ["ALONE", "LABELS", "NOBODY", "Delays"]

ALONE, NOBODY = "alone", "nobody"
LABELS = {
    ALONE: "without --api",
    NOBODY: "--api, and nobody there",
} | {key: kind.label for key, kind in KINDS.items()}
"""In the order of the table."""

_SETTLED = 1.0  # seconds until all clients are connected
_PAUSE_US = 1000  # between two heartbeats
_DEADLINE = 30.0  # seconds
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass(frozen=True)
class Delays:
    """Measures the delays.

    Attributes:
        tools: The programs.
        cores: Where they run.
        directory: A temporary directory.
        seconds: How long heartbeats are timed with each kind of clients.
    """

    tools: Tools
    cores: Cores
    directory: str
    seconds: float

    def round(self, *, backwards: bool = False) -> Round:
        """Measure everything once."""
        results: Round = {}
        for key in reversed(LABELS) if backwards else LABELS:
            options = () if key == ALONE else ("--api", f"unix:{self._path('api')}")
            with self._server(key, *options) as server:
                results[key] = self._measure(server, key)
        return results

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, f"{name}.sock")

    @contextmanager
    def _server(self, key: str, *options: str) -> Generator[Server]:
        where = self._path("heartbeats")
        argv = [self.tools.nitrohb, "serve", "--keep", "--quiet", "-l", f"unix:{where}", *options]
        log = os.path.join(self.directory, f"{key}.log")
        with Server(self.cores, argv, where, log) as server:
            prefer(server.pid)
            self._beats(server, 0.1)
            yield server
            server.stop()

    def _measure(self, server: Server, key: str) -> Metrics:
        if key in (ALONE, NOBODY):
            return self._beats(server, self.seconds)
        with _Asking(key, self._path("api")) as asking:
            time.sleep(_SETTLED)
            cpu, began = observe.cpu_ns(server.pid), time.monotonic_ns()
            metrics = self._beats(server, self.seconds)
            cpu, took = observe.cpu_ns(server.pid) - cpu, time.monotonic_ns() - began
            memory = observe.memory(server.pid)
        return metrics | {
            "responses": asking.rate,
            "cpu_percent": 100 * cpu / took,
            "pss_mib": memory.pss / 1024,
        }

    def _beats(self, server: Server, seconds: float) -> Metrics:
        """Time heartbeats and check them."""
        argv = [self.tools.load, "--socket", self._path("heartbeats"), "--warmup", "20"]
        argv += ["--pause-us", str(_PAUSE_US), "--seconds", str(seconds)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            prefer(client.pid)
            out, err = client.communicate(timeout=seconds + _DEADLINE)
        if client.returncode:
            raise server.failure(err.decode().strip())
        result: Metrics = json.loads(out.decode())
        return {name: result[name] for name in ("p50_us", "p99_us", "max_us")}


class _Asking:
    """Runs clients of one kind while a block runs.

    Attributes:
        rate: Responses per second that they got.
    """

    rate = 0.0

    def __init__(self, key: str, path: str) -> None:
        argv = [sys.executable, "-m", "bench.hostile", key, path]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, cwd=_HERE, stdin=pipe, stdout=pipe)

    def __enter__(self) -> "_Asking":
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self._began = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            seconds = time.monotonic() - self._began
            self.rate = int(self._process.communicate(timeout=_DEADLINE)[0]) / seconds
        finally:
            self._process.kill()
            self._process.wait()
