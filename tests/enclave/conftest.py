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
# Its guests end without a word, killed or by a panic. 8 s later its parent still sends a reset, and
# vhost-device-vsock 0.3.0 ends the thread of the next guest if that comes while it starts.
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
        """An enclave that boots, and is killed in the end if it still runs."""
        self._siblings.device.prepare(cid)
        with Guest(self._parts, self._siblings.directory, hybrid(cid), **arguments) as guest:
            yield guest

    def boot(self, cid: int, **arguments: Any) -> str:
        """Boot an enclave, and return what came of it."""
        with self.booting(cid, **arguments) as guest:
            return guest.outcome()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the tests have recorded: the line that AWS's image prints."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def parts() -> Parts:
    return find.parts()


@pytest.fixture
def reader(parts: Parts, tmp_path: Path) -> Reader:
    """Somebody who follows the how-to, in a directory with the guest that it makes."""
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
