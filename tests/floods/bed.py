# SPDX-License-Identifier: Apache-2.0
"""Where a scenario happens: an address, the server, the honest enclave, the flooders, the figures.

On a Unix socket every client is a peer of its own, as the server knows it by its process. On the
loopback of AF_VSOCK all clients have CID 1 and are one peer: there nothing but its own promptness
speaks for the honest enclave. It is answered because it speaks at once, so that it never has to
wait among the silent ones.
"""

import signal
import statistics
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from .processes import Client, Enclave, Server, Under, until

FREE = Under()


@dataclass
class Figures:
    """What a run has measured, for the table."""

    load: str = ""
    waits: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])
    evicted: int = 0
    rejected: int = 0
    accepted: int = 0
    megabytes: float = 0.0

    HEADINGS = (
        *("load", "beats", "lost", "median ms", "worst ms"),
        *("accepted", "evicted", "rejected", "RSS MB"),
    )

    def row(self) -> tuple[str, ...]:
        """The figures, as text, in the order of the headings."""
        waits = [1000 * wait for wait in self.waits] or [0.0]
        return (
            *(self.load, f"{len(self.waits)}", f"{len(self.failures)}"),
            *(f"{statistics.median(waits):.2f}", f"{max(waits):.1f}"),
            *(f"{self.accepted}", f"{self.evicted}", f"{self.rejected}", f"{self.megabytes:.0f}"),
        )


class Bed:
    """One run of one scenario.

    Attributes:
        address: Where the server listens.
        full: Whether the sizes are those of the issue; else they only show the behaviour.
        figures: Filled in as the run goes on.
    """

    def __init__(self, address: str, *, full: bool) -> None:
        self.address = address
        self.full = full
        self.figures = Figures()

    def size(self, full: int, short: int) -> int:
        return full if self.full else short

    @contextmanager
    def serving(self, *options: str, under: Under = FREE) -> Generator[tuple[Server, Enclave]]:
        """A server, and the honest enclave that beats all the while.

        In the end, with the clients of the block gone, the server has no more descriptors open
        than in the beginning, every heartbeat was echoed, and SIGTERM ends it without a word.
        """
        with self.server(*options, under=under) as server, Enclave(self.client_address) as enclave:
            enclave.beats(2)  # by then the server has opened all that it needs
            start = server.descriptors_at_rest()
            yield server, enclave
            enclave.stop()
            until(lambda: server.descriptors() <= start, "all descriptors are closed again")
            self._note(server, enclave)
            assert not enclave.failures, enclave.failures
            server.send(signal.SIGTERM)
            assert (server.ends(), server.errors()) == (128 + signal.SIGTERM, "")

    @contextmanager
    def server(self, *options: str, under: Under) -> Generator[Server]:
        """A server that listens, once this begins."""
        with Server(self.address, *options, under=under) as server:
            until(lambda: server.count("listening"), "the server listens")
            yield server

    @property
    def client_address(self) -> str:
        """What a client connects to: the loopback's CID, where the server listens on any."""
        return self.address.replace("vsock::", "vsock:1:")

    def flood(self, role: str, *clients: tuple[float, ...]) -> "Flood":
        """Some clients of a role, one for each tuple of numbers; see :mod:`.clients`."""
        return Flood(role, self.client_address, clients)

    def _note(self, server: Server, enclave: Enclave) -> None:
        figures = self.figures
        figures.waits += enclave.waits
        figures.failures += enclave.failures
        figures.accepted += server.count("connected")
        figures.evicted += server.count("evicted")
        figures.rejected += server.count("rejected")
        figures.megabytes = max(figures.megabytes, server.peak_megabytes())


class Flood:
    """Clients that run from the start of a ``with`` block to its end."""

    def __init__(self, role: str, address: str, clients: tuple[tuple[float, ...], ...]) -> None:
        self._make = [partial(Client, role, address, *numbers) for numbers in clients]
        self._stack = ExitStack()

    def __enter__(self) -> "Flood":
        with ExitStack() as undo:
            self.clients = [undo.enter_context(make()) for make in self._make]
            self._stack = undo.pop_all()
        return self

    def reaches_its_goal(self) -> None:
        """Wait until every client has done what it was asked for. It then goes on, or holds on."""
        until(lambda: all(each.has_reached_its_goal() for each in self.clients), "the flood")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            for client in self.clients if kind is None else ():
                client.stop()


def limit(which: str, value: int) -> Under:
    """A limit of resources, by its name in prlimit(1)."""
    return Under(("prlimit", f"--{which}={value}"))
