# SPDX-License-Identifier: Apache-2.0
"""One round of measurements: starts every peer, measures each kind of load, and stops them.

The peers take turns at each kind of load, so measurements to compare are only seconds apart. Every
other round is in reverse order.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from . import claims, observe
from .contestants import NITROHB, PEERS, Peer, Tools
from .processes import BenchError, Cores, Server, connect, time_command

__all__ = ["PASS", "Bench", "Metrics", "Round"]

Metrics = dict[str, float]
Round = dict[str, Metrics]  # by the key of the peer

PASS = "python -c pass"
"""The key of the bare interpreter, whose ``ready_ms`` is its whole life."""

_SLACK = 30.0  # seconds that a load client can take beyond its time
_WARMUP = 200  # heartbeats before a measurement
_FIRST_PORT = 9000

LOADS = {
    "1": ("--connections", "1"),
    "16": ("--connections", "16"),
    "late": ("--delay-us", "200"),
}


@dataclass(frozen=True)
class Bench:
    """How to measure.

    Attributes:
        tools: The programs.
        cores: Where they run.
        directory: A temporary directory.
        seconds: How long each load lasts.
        idle: The number of silent connections to hold open.
        vsock: Use AF_VSOCK inside User Mode Linux, instead of Unix sockets.
    """

    tools: Tools
    cores: Cores
    directory: str
    seconds: float
    idle: int
    vsock: bool = False

    def round(self, peers: Sequence[Peer]) -> Round:
        """Measure everything once."""
        results: Round = {peer.key: {} for peer in peers}
        results[PASS] = {"ready_ms": time_command(self.cores, [sys.executable, "-c", "pass"])}
        with ExitStack() as closing:
            servers: dict[Peer, Server] = {}
            for peer in peers:
                servers[peer] = closing.enter_context(self.start(peer))
                results[peer.key] |= self._at_start(peer, servers[peer])
            results[NITROHB.key] |= self._commands()
            for load in LOADS:
                for peer, server in servers.items():
                    results[peer.key] |= self._under_load(peer, server, load)
            for peer, server in servers.items():
                results[peer.key]["exit_ms"] = server.stop()
        for peer in peers:
            if peer.held:
                results[peer.key] |= self._with_idle(peer)
        return results

    def start(self, peer: Peer, *, patient: bool = False) -> Server:
        """Start a peer on its own socket."""
        where = self._where(peer)
        if os.path.exists(where):
            os.unlink(where)
        argv = peer.command(self.tools, where, patient=patient)
        log = os.path.join(self.directory, f"{peer.key}.log")
        return Server(self.cores, argv, where, log, drain=peer.prints)

    def load(self, peer: Peer, server: Server, *options: str) -> Metrics:
        """Run the load client against a peer.

        Raises:
            BenchError: An answer was wrong or missing.
        """
        argv = self._load(peer, ("--warmup", str(_WARMUP), *options))
        limit = self.seconds + _SLACK
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit)
        if done.returncode:
            raise server.failure(f"{peer.label}: {' '.join(options)}: {done.stderr.strip()}")
        result: Metrics = json.loads(done.stdout)
        return result

    def long_run(self, count: int) -> Metrics:
        """Send heartbeats, 16 at a time, and measure memory and open files before and after."""
        with self.start(NITROHB) as server:
            self.load(NITROHB, server, "--count", "10000")
            before = self._left(server)
            argv = self._load(NITROHB, ("--count", str(count), "--deadline", "3600", *LOADS["16"]))
            done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=3600 + _SLACK)
            if done.returncode:
                raise server.failure("the long run had errors")
            result: Metrics = json.loads(done.stdout)
            after = self._left(server)
        return result | {f"{key}_before": value for key, value in before.items()} | after

    def at_rest(self, seconds: float) -> observe.Rest:
        """Measure what an idle nitrohb does that has no socket file to check."""
        where, log = (os.path.join(self.directory, name) for name in ("rest", "strace.log"))
        argv = [self.tools.nitrohb, "serve", "--keep", "--quiet", "--listen", "fd:0"]
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(where)
            sock.listen()
            with Server(self.cores, argv, where, f"{log}.err", stdin=sock.fileno()) as server:
                with connect(where) as client:
                    client.sendall(b"\xb7")
                    client.recv(1)
                return observe.watch_at_rest(server.pid, log, seconds)

    def _commands(self) -> Metrics:
        """Time commands that a person or a script waits for."""
        script = self.tools.nitrohb
        metrics = {
            "version_ms": time_command(self.cores, [script, "--version"]),
            "help_ms": time_command(self.cores, [script, "--help"]),
        }
        if self.vsock:
            return metrics
        names = ("claimed", "other", "api")
        where, other, api = (os.path.join(self.directory, name) for name in names)
        argv = [script, "serve", "--keep", "--quiet", "--api", f"unix:{api}"]
        argv += ["--listen", f"unix:{where}", "--listen", f"unix:{other}"]
        with Server(self.cores, argv, where, f"{where}.log") as server:
            with connect(where) as client:
                client.sendall(b"\xb7")
                client.recv(1)
            wait = [script, "wait", "--address", f"unix:{where}", "--api", f"unix:{api}"]
            metrics["wait_ms"] = time_command(self.cores, wait)
            metrics["claim_p99_ms"] = claims.p99_ms(where, other, api, server.pid)
        return metrics

    def _at_start(self, peer: Peer, server: Server) -> Metrics:
        self._beat(peer)
        echo_ms = server.age_ms
        memory = observe.memory(server.pid)
        return {
            "ready_ms": server.ready_ms,
            "echo_ms": echo_ms,
            "rss_mib": memory.rss / 1024,
            "pss_mib": memory.pss / 1024,
        }

    def _beat(self, peer: Peer) -> None:
        """Send one heartbeat, after which the server has loaded everything."""
        with connect(self._where(peer)) as sock:
            sock.sendall(b"\xb7")
            if sock.recv(1) != b"\xb7":
                raise BenchError(f"{peer.label}: no echo")

    def _under_load(self, peer: Peer, server: Server, load: str) -> Metrics:
        cpu = observe.cpu_ns(server.pid)
        result = self.load(peer, server, *LOADS[load], "--seconds", str(self.seconds))
        cpu = observe.cpu_ns(server.pid) - cpu
        metrics = {f"{name}_{load}": result[name] for name in ("p50_us", "p99_us", "rate")}
        return metrics | {f"cpu_us_{load}": cpu / 1000 / (result["count"] + _WARMUP)}

    def _with_idle(self, peer: Peer) -> Metrics:
        """Measure p50 with and without silent connections, and their memory."""
        held = min(self.idle, peer.held)
        with self.start(peer, patient=True) as server:
            bare = self.load(peer, server, "--seconds", str(self.seconds))
            before = observe.memory(server.pid)
            during, memory = self._hold(peer, server, held)
        metrics = {"pending_kib": max(memory.pss - before.pss, 0.0) / held}
        if held == self.idle:
            metrics |= {"p50_us_bare": bare["p50_us"], "p50_us_idle": during["p50_us"]}
        return metrics

    def _hold(self, peer: Peer, server: Server, held: int) -> tuple[Metrics, observe.Memory]:
        options = ("--idle", str(held), "--hold", "1", "--warmup", str(_WARMUP))
        argv = self._load(peer, (*options, "--seconds", str(self.seconds)))
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as client:
            try:
                assert client.stdout is not None
                client.stdout.readline()  # the client has its own deadline
                memory = observe.memory(server.pid)
                out, err = client.communicate(timeout=self.seconds + _SLACK)
            finally:
                client.kill()
        if client.returncode:
            raise server.failure(f"{peer.label}: with {held} idle: {err.strip()}")
        result: Metrics = json.loads(out)
        return result, memory

    def _load(self, peer: Peer, options: Sequence[str]) -> list[str]:
        closes = ("--client-closes", "1") if peer.client_closes else ()
        return [self.tools.load, "--socket", self._where(peer), *closes, *options]

    def _left(self, server: Server) -> Metrics:
        memory, files = observe.memory(server.pid), observe.open_files(server.pid)
        return {"rss_kib": memory.rss, "files": float(files)}

    def _where(self, peer: Peer) -> str:
        if self.vsock:
            return f"vsock:{_FIRST_PORT + PEERS.index(peer)}"
        return os.path.join(self.directory, f"{peer.key}.sock")
