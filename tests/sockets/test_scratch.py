# SPDX-License-Identifier: Apache-2.0
"""The temporary directory of demo and doctor."""

import os
import resource
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from nitrohb.sockets.scratch import scratch_path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("used", [False, True])
def test_it_is_removed_even_without_free_descriptors(root: Path, used: bool) -> None:
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


@pytest.mark.parametrize(
    ("directory", "limit", "message"),
    [
        ("missing", resource.getrlimit(resource.RLIMIT_NOFILE)[0], "No usable temporary directory"),
        ("", 0, "Too many open files"),
    ],
)
def test_a_lack_of_descriptors_is_not_a_lack_of_a_directory(
    directory: str, limit: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tempfile raises the same error for both."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / directory)])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
        with pytest.raises(OSError, match=message), scratch_path("s"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_it_is_removed_after_an_error_and_there_can_be_two(root: Path) -> None:
    with suppress(ZeroDivisionError), scratch_path("s") as one, scratch_path("s") as two:
        assert one != two
        assert len(os.listdir(root)) == 2
        raise ZeroDivisionError
    assert os.listdir(root) == []
