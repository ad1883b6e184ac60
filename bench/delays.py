# SPDX-License-Identifier: Apache-2.0
"""What clients of the HTTP interface cost a heartbeat: none, quiet ones, and hostile ones.

Heartbeats come one by one, at random times, to one server without the interface and to one with
it. The server has a core to itself. Whoever asks shares the other one with the client whose
heartbeats are timed. Both that client and the server go before all others on their cores, if this
user may ask for that: what is measured is what the server delays.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from . import observe
from .contestants import Tools
from .hostile import KINDS
from .measure import Metrics, Round
from .processes import BenchError, Cores, Server

__all__ = ["ALONE", "LABELS", "NOBODY", "Delays"]

ALONE, NOBODY = "alone", "nobody"
LABELS = {
    ALONE: "without --api",
    NOBODY: "--api, and nobody there",
} | {key: kind.label for key, kind in KINDS.items()}
"""In the order of the table."""

_SETTLED = 0.3  # seconds until clients are connected, and until the server has got over them
_PAUSE_US = 1000  # between two heartbeats
_DEADLINE = 30.0  # seconds
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclass(frozen=True)
class Delays:
    """How to measure.

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
        with self._server(ALONE) as alone, self._server(NOBODY, "--api", self._api) as server:
            for key in reversed(LABELS) if backwards else LABELS:
                results[key] = self._measure(alone if key == ALONE else server, key)
        return results

    @property
    def _api(self) -> str:
        return f"unix:{os.path.join(self.directory, 'api.sock')}"

    def _where(self, key: str) -> str:
        return os.path.join(self.directory, f"{key}.sock")

    @contextmanager
    def _server(self, key: str, *options: str) -> Generator[Server]:
        where = self._where(key)
        argv = [self.tools.nitrohb, "serve", "--keep", "--quiet", "-l", f"unix:{where}", *options]
        log = os.path.join(self.directory, f"{key}.log")
        with Server(self.cores, argv, where, log) as server:
            _prefer(server.pid)
            self._beats(key, 0.1)
            yield server
            server.stop()

    def _measure(self, server: Server, key: str) -> Metrics:
        if key in (ALONE, NOBODY):
            return self._beats(key, self.seconds)
        with _Asking(key, self._api.removeprefix("unix:")) as asking:
            time.sleep(_SETTLED)
            cpu, began = observe.cpu_ns(server.pid), time.monotonic_ns()
            metrics = self._beats(NOBODY, self.seconds)
            cpu, took = observe.cpu_ns(server.pid) - cpu, time.monotonic_ns() - began
            memory = observe.memory(server.pid)
        time.sleep(_SETTLED)
        return metrics | {
            "responses": asking.rate,
            "cpu_percent": 100 * cpu / took,
            "pss_mib": memory.pss / 1024,
        }

    def _beats(self, key: str, seconds: float) -> Metrics:
        """Time heartbeats, and check them."""
        argv = [self.tools.load, "--socket", self._where(ALONE if key == ALONE else NOBODY)]
        argv += ["--warmup", "20", "--pause-us", str(_PAUSE_US), "--seconds", str(seconds)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            _prefer(client.pid)
            out, err = client.communicate(timeout=seconds + _DEADLINE)
        if client.returncode:
            raise BenchError(f"{LABELS[key]}: {err.decode().strip()}")
        result: Metrics = json.loads(out.decode())
        return {name: result[name] for name in ("p50_us", "p99_us", "max_us")}


class _Asking:
    """Clients of one kind, for as long as a block runs.

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


def _prefer(pid: int) -> None:
    """Let a process go before others on its core, as far as this user may do that."""
    with suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
