# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/api.md, run by the real curl on one server."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from tests.cli.process import HEARTBEAT, beat, connected, started

MANUAL = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLES = re.findall(r"^    (curl .*)", MANUAL.read_text(), re.MULTILINE)
STREAM_CUT_OFF = 28  # curl's exit code when --max-time is over


def curl(example: str, here: Path) -> tuple[int, str, str]:
    """Run an example on the Unix sockets of a directory. Return exit code, output and status.

    Its only enclave has no CID, and plays CID 16.
    """
    here_too = (
        example.replace("/run/nitrohb", str(here))
        .replace('"cid": 16', f'"address": "unix:{here}/vm"')
        .replace("vsock::9000", f"unix:{here}/vm")
    )
    patience = "0.5" if "/events" in example else "20"
    command = [*shlex.split(here_too), "-sS", "--max-time", patience, "-w", "\n%{http_code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stderr == "" or done.returncode == STREAM_CUT_OFF
    printed, _, status = done.stdout.rpartition("\n")
    return done.returncode, printed, status


def test_there_is_one_for_each_endpoint_that_curl_is_for() -> None:
    calls = re.findall(r"^## .*`[A-Z]+ (/[\w.]+)", MANUAL.read_text(), re.MULTILINE)
    shown = {re.search(r"http://localhost(/[\w.]*)", example) for example in EXAMPLES}
    assert {match[1] for match in shown if match} >= {*calls} > {"/claims", "/listeners"}


def test_they_fit_the_service_of_systemd_which_can_create_sockets_only_in_one_directory() -> None:
    paths = re.findall(r"/run/[^\s\"]+", " ".join(EXAMPLES))
    assert {path.rpartition("/")[0] for path in paths} == {"/run/nitrohb"}


def test_each_works(tmp_path: Path) -> None:
    assert shutil.which("curl"), "these examples need curl: apt-get install curl"
    vm, api = tmp_path / "vm", tmp_path / "api.sock"
    args = ("--keep", "--quiet", "-l", f"unix:{vm}", "--api", f"unix:{api}")
    with started("serve", *args), connected(api):
        for example in EXAMPLES:
            assert beat(vm) == HEARTBEAT
            code, printed, status = curl(example, tmp_path)
            if "/events" in example:
                expected = (STREAM_CUT_OFF, ": hello\n\n", "200")
            elif "DELETE" in example:
                expected = (0, "", "204")
            elif "/listeners" in example:
                expected = (0, printed or "something", "201")
            else:
                expected = (0, printed or "something", "200")
            assert (code, printed, status) == expected, example
