# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/api.md, with the real curl."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.process import HEARTBEAT, beat, connected, started

MANUAL = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLES = re.findall(r"^    (curl .*)", MANUAL.read_text(), re.MULTILINE)
STREAM_CUT_OFF = 28  # curl's exit code when --max-time is over


@contextmanager
def serving(tmp_path: Path) -> Generator[Path]:
    """A server whose one enclave, which on AF_VSOCK would be CID 16, has sent a heartbeat."""
    vm, api = tmp_path / "vm", tmp_path / "api.sock"
    args = ("--keep", "--quiet", "-l", f"unix:{vm}", "--api", f"unix:{api}")
    with started("serve", *args), connected(api):
        assert beat(vm) == HEARTBEAT
        yield tmp_path


def curl(example: str, here: Path) -> tuple[int, str, str]:
    """Run an example on the Unix sockets of a directory: exit code, what it prints, status."""
    here_too = (
        example.replace("/run/nitrohb", str(here))
        .replace('"cid": 16', f'"address": "unix:{here}/vm"')
        .replace("vsock::9000", f"unix:{here}/vm")
    )
    command = [*shlex.split(here_too), "-sS", "--max-time", "2", "-w", "\n%{http_code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stderr == "" or done.returncode == STREAM_CUT_OFF
    printed, _, status = done.stdout.rpartition("\n")
    return done.returncode, printed, status


def test_there_is_one_for_each_endpoint_that_curl_is_for() -> None:
    calls = re.findall(r"^## .*`[A-Z]+ (/[\w.]+)", MANUAL.read_text(), re.MULTILINE)
    shown = {re.search(r"http://localhost(/[\w.]*)", example) for example in EXAMPLES}
    assert {match[1] for match in shown if match} >= {*calls} - {"/healthz"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_works(example: str, tmp_path: Path) -> None:
    assert shutil.which("curl"), "these examples need curl: apt-get install curl"
    with serving(tmp_path) as here:
        code, printed, status = curl(example, here)
    if "/events" in example:
        assert (code, printed, status) == (STREAM_CUT_OFF, ": hello\n\n", "200")
    elif "/rearm" in example:
        assert (code, printed, status) == (0, "", "204")
    else:
        assert (code, status) == (0, "200")
        assert printed
