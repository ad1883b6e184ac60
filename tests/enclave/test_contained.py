# SPDX-License-Identifier: Apache-2.0
"""The prefix of the commands of the session leaves nothing behind, even after SIGKILL."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support import child

from .parts import contained

# Starts a command and waits for it, as nox does.
STARTER = (sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])")


@pytest.mark.parametrize(
    ("starter", "number"),
    [((), signal.SIGKILL), (STARTER, signal.SIGTERM), (STARTER, signal.SIGKILL)],
    ids=["itself", "its-terminated-parent", "its-killed-parent"],
)
def test_a_killed_run_leaves_no_process_and_no_file(
    tmp_path: Path, starter: Sequence[str], number: int
) -> None:
    # All processes of the command have this descriptor: the pipe ends when the last of them has
    # ended.
    script = 'touch "$0/file"; sleep 30 & echo started; sleep 30; echo still there'
    command = [*starter, *contained(tmp_path), "sh", "-c", script, str(tmp_path)]
    with child(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"started\n"
        run.send_signal(number)
        assert run.stdout.read() == b""
    assert os.listdir(tmp_path) == []
