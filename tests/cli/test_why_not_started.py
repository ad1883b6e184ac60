# SPDX-License-Identifier: Apache-2.0
"""What a person reads when the command of ``nitrohb run`` cannot be started."""

import errno
from pathlib import Path

import pytest

from nitrohb.cli.process import why_not_started


def test_a_command_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/cli/test_run.py has the errors that can be provoked."""
    monkeypatch.chdir(tmp_path)
    for name in ("here", "so so"):
        Path(name).touch()
    Path("dir").mkdir()
    for command, number, reason, remedy in (
        ("launch", errno.EAGAIN, "processes", "ulimit -u"),
        ("launch", errno.EMFILE, "this process has too many open files", "ulimit -n"),
        ("launch", errno.E2BIG, "Argument list too long", "Try"),
        ("", errno.EACCES, "its name is empty", "after --"),
        ("", errno.ENOENT, "its name is empty", "after --"),
        ("here", errno.ENOENT, "in PATH", "write ./here"),
        ("so so", errno.ENOENT, "in PATH", "write ./'so so'"),
        ("nowhere", errno.ENOENT, "there is no such command (", "its whole path"),
        ("./here", errno.ENOENT, "the interpreter", "Install"),
        ("./here", errno.EACCES, "this user may not run it", "chmod +x"),
        ("./dir", errno.EACCES, "it is a directory", "in it"),
    ):
        first, second = why_not_started(command, OSError(number, "refused")).splitlines()
        assert reason in first
        assert first.endswith(f"({errno.errorcode[number]})")
        assert remedy in second
