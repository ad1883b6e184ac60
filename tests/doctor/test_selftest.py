# SPDX-License-Identifier: Apache-2.0
"""The heartbeat that the doctor sends to itself."""

import errno
import os
import socket
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import trio

from nitrohb import PeerClosedError, VsockAddress
from nitrohb.addresses import PORT_ANY
from nitrohb.doctor import selftest
from nitrohb.remedies import NO_AF_VSOCK


def test_it_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / (100 * "x")).mkdir()
    for directory, kind in (("", float), ("missing", OSError), (100 * "x", OSError)):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / directory))
        assert isinstance(selftest.beat_over_unix(), kind), directory
        assert os.listdir(tmp_path) == [100 * "x"]
        assert os.listdir(tmp_path / (100 * "x")) == []


def test_a_heartbeat_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lack of descriptors is reported as such."""

    async def stay_silent(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    send = AsyncMock()
    monkeypatch.setattr(selftest, "send_heartbeat", send)
    send.side_effect = PeerClosedError("it was closed\nand more")
    assert selftest.beat_over_unix() == "it was closed"
    send.side_effect = lack = OSError(errno.EMFILE, "too many")
    assert selftest.beat_over_unix() is lack
    send.side_effect = stay_silent
    monkeypatch.setattr(selftest, "_TIMEOUT", 0.01)
    assert selftest.beat_over_unix() == "it took more than 0.01 s"


def test_no_loopback_without_af_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    for family, number in ((None, NO_AF_VSOCK), (9999, errno.EAFNOSUPPORT)):
        monkeypatch.setattr(selftest, "AF_VSOCK", family)
        seen = selftest.beat_over_loopback()
        assert isinstance(seen, OSError)
        assert seen.errno == number


def test_it_connects_to_the_loopback_only_while_bound_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a fake socket; tests/vsock has the real one."""
    bound: list[tuple[int, int]] = []

    class Socket:
        def __init__(self, *_: int) -> None:
            pass

        def __enter__(self) -> "Socket":
            return self

        def __exit__(self, *_: object) -> None:
            bound.clear()

        def bind(self, address: tuple[int, int]) -> None:
            bound.append(address)

        def listen(self) -> None:
            assert bound == [(1, PORT_ANY)]

        def getsockname(self) -> tuple[int, int]:
            return (1, 1234)

    def run(listen: Socket, address: VsockAddress) -> float:
        assert bound
        assert address == VsockAddress(1, 1234)
        return 0.5

    monkeypatch.setattr(selftest, "AF_VSOCK", 40)
    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(selftest, "_run", run)
    assert selftest.beat_over_loopback() == 0.5
