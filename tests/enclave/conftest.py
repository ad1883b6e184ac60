# SPDX-License-Identifier: Apache-2.0
"""The parts, and a parent that several tests share."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import parts as find
from .machines import Device, Guest, Parent, hybrid
from .parts import Parts
from .reader import Reader

ENCLAVES = (16, 17, 18)
# Its guests are killed or panic, so they close nothing. 8 s later the parent sends a reset. If that
# comes while the next guest starts, vhost-device-vsock 0.3.0 ends the thread of that guest.
DOOMED = 19


@dataclass(frozen=True, slots=True)
class Siblings:
    """A parent guest with CID 3, and the device that it shares with its enclaves."""

    device: Device
    parent: Parent
    directory: Path


class Enclaves:
    """Boots enclaves beside the parent."""

    def __init__(self, parts: Parts, siblings: Siblings) -> None:
        self._parts = parts
        self._siblings = siblings

    @contextmanager
    def booting(self, cid: int, **arguments: Any) -> Generator[Guest]:
        """Boot an enclave, and kill it at the end if it still runs."""
        self._siblings.device.prepare(cid)
        with Guest(self._parts, self._siblings.directory, hybrid(cid), **arguments) as guest:
            yield guest

    def boot(self, cid: int, **arguments: Any) -> str:
        """Boot an enclave, and return the outcome."""
        with self.booting(cid, **arguments) as guest:
            return guest.outcome()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests have recorded: the line that AWS's image prints."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def parts() -> Parts:
    return find.parts()


@pytest.fixture
def reader(parts: Parts, tmp_path: Path) -> Reader:
    """A reader of the page, in a directory with the guest that it builds."""
    return Reader(parts, tmp_path)


@pytest.fixture(scope="session")
def siblings(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siblings]:
    directory = tmp_path_factory.mktemp("siblings")
    vms = [hybrid(cid) for cid in (Parent.CID, *ENCLAVES, DOOMED)]
    with Device(parts, directory, *vms) as device:
        device.prepare(Parent.CID)
        with Parent(parts, directory) as parent:
            yield Siblings(device, parent, directory)


@pytest.fixture(scope="session")
def enclaves(parts: Parts, siblings: Siblings) -> Enclaves:
    return Enclaves(parts, siblings)
