# SPDX-License-Identifier: Apache-2.0
"""What the session runs these tests in leaves nothing behind, even if it is killed."""

import os
import signal
import subprocess
from pathlib import Path

from .parts import contained


def test_a_killed_run_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    # The descriptor is how we know the processes in there, wherever they are: the pipe ends when
    # the last of them does.
    script = 'touch "$0/file"; sleep 1000 & echo started; sleep 1000'
    command = [*contained(tmp_path), "sh", "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"started\n"
        run.send_signal(signal.SIGKILL)
        assert run.stdout.read() == b""
    assert os.listdir(tmp_path) == []
