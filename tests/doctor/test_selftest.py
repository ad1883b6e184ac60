# SPDX-License-Identifier: Apache-2.0
"""The heartbeat that the doctor sends to itself."""

import errno
import os
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import trio

from nitrohb import PeerClosedError
from nitrohb.doctor import selftest


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
