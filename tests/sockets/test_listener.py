# SPDX-License-Identifier: Apache-2.0
"""The vsock namespace of a listener. tests/vsock/namespaces has real ones."""

import errno
import socket
import sys
from pathlib import Path

import pytest

from nitrohb.addresses import UnixAddress, VsockAddress
from nitrohb.sockets import listener
from nitrohb.sockets.listener import Listener, in_local_vsock_namespace


class VsockSocket(socket.socket):
    """An AF_VSOCK socket as seen by getsockopt(), in this network namespace or another."""

    other_network = 0

    def getsockopt(self, level: int, option: int, size: int = 8) -> int:  # type: ignore[override]
        cookie = super().getsockopt(level, option, size)
        return int.from_bytes(cookie, sys.byteorder) + self.other_network


class OldKernel(VsockSocket):
    def getsockopt(self, level: int, option: int, size: int = 8) -> int:  # type: ignore[override]
        raise OSError(errno.ENOPROTOOPT, "no")


@pytest.fixture
def mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the mode of this vsock namespace: local."""
    file = tmp_path / "ns_mode"
    file.write_text("local\n")
    monkeypatch.setattr(listener, "_NAMESPACE_MODE", str(file))
    return file


def vsock(kind: type[VsockSocket] = VsockSocket) -> Listener:
    made = Listener(VsockAddress(3, 9000), kind(socket.AF_UNIX))
    made.has_cids = True
    return made


def test_a_socket_in_a_local_vsock_namespace(mode: Path) -> None:
    with vsock() as own:
        assert own.is_isolated()
        mode.write_text("global\n")
        assert not own.is_isolated()
        mode.unlink()
        assert not own.is_isolated()


def test_a_socket_of_unknown_namespace(mode: Path) -> None:
    assert in_local_vsock_namespace()
    with vsock() as passed_in, vsock(OldKernel) as strange:
        passed_in.sock.other_network = 1  # type: ignore[attr-defined]
        assert not passed_in.is_isolated()
        assert not strange.is_isolated()
    with Listener(UnixAddress("x"), socket.socket(socket.AF_UNIX)) as unix:
        assert not unix.is_isolated()
