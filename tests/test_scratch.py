# SPDX-License-Identifier: Apache-2.0
"""The temporary place of demo and doctor."""

import os
import resource
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from nitrohb.scratch import scratch_path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("used", [False, True])
def test_it_is_gone_even_where_no_descriptor_is_left(root: Path, used: bool) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            with scratch_path("s") as path:
                assert Path(path).parent.parent == root
                assert Path(path).parent.stat().st_mode & 0o777 == 0o700
                if used:
                    sock.bind(path)
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
                with pytest.raises(OSError, match="Too many open files"):
                    os.open(root, os.O_RDONLY)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert os.listdir(root) == []


def test_it_is_gone_after_an_error_and_there_can_be_two(root: Path) -> None:
    with suppress(ZeroDivisionError), scratch_path("s") as one, scratch_path("s") as two:
        assert one != two
        assert len(os.listdir(root)) == 2
        raise ZeroDivisionError
    assert os.listdir(root) == []
