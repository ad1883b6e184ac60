# SPDX-License-Identifier: Apache-2.0
"""For every test: no descriptor may leak, and AF_VSOCK connects only inside a test kernel."""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator

import hypothesis
import pytest

from tests.uml import launcher

# "quick" tries the same few examples in each run. "thorough" tries many new ones in each run.
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5000, print_blob=True)
hypothesis.settings.load_profile("quick")


def refuse_vsock_connects(event: str, args: tuple[object, ...]) -> None:
    """Stop a test that would connect to another machine over AF_VSOCK."""
    if event != "socket.connect" or launcher.inside():
        return
    (sock, *_) = args
    if isinstance(sock, socket.socket) and sock.family == getattr(socket, "AF_VSOCK", None):
        raise RuntimeError("tests connect by AF_VSOCK only inside a kernel that they booted")


sys.addaudithook(refuse_vsock_connects)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need a real AF_VSOCK, unless this is a kernel that has one."""
    if launcher.inside():
        return
    left_out = [item for item in items if item.get_closest_marker("vsock")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def _signals_are_not_ignored() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT and SIGQUIT, nohup's SIGHUP; so would nitrohb."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGQUIT: signal.signal(signal.SIGQUIT, signal.SIG_DFL),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def open_descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


@pytest.fixture(autouse=True)
def _no_descriptor_leaks() -> Iterator[None]:
    before = open_descriptors()
    yield
    leaked = {fd: what for fd, what in open_descriptors().items() if before.get(fd) != what}
    assert not leaked, f"left open: {leaked}"
