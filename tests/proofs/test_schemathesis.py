# SPDX-License-Identifier: Apache-2.0
"""Schemathesis compares the interface with its OpenAPI document.

It sends what the document allows and what it forbids, follows links from one response to the next
request, and reads 20 events of the endless ``/events`` each time. Enclaves boot all the time, so a
claim that may wait for an hour soon gets a heartbeat.

Left out are heartbeats and claims by CID, which need AF_VSOCK (see tests/api), and
``/openapi.json``, which it reads only once.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tests.cli.process import beat

from .serving import serving

CONFIG = Path(__file__).parent / "schemathesis.toml"
PAUSE = 0.005  # seconds between heartbeats
TIME_LIMIT = 300  # seconds

# Each of these must have been answered at least once, or the test proves nothing.
ANSWERED = {
    ("GET", "/", 200),
    ("GET", "/heartbeats", 200),
    ("GET", "/heartbeats/{cid}", 404),
    ("POST", "/claims", 200),
    ("POST", "/claims", 400),
    ("POST", "/rearm", 204),
    ("POST", "/rearm", 400),
    ("GET", "/events", 200),
    ("GET", "/healthz", 200),
    ("GET", "/readyz", 200),
    ("GET", "/metrics", 200),
    ("PUT", "/", 405),
}


@contextmanager
def beating(*paths: Path) -> Generator[None]:
    """Boot enclaves until the end of the block."""
    stop = threading.Event()

    def boot() -> None:
        while not stop.wait(PAUSE):
            for path in paths:
                with suppress(ConnectionError):  # rearmed just now
                    beat(path)

    thread = threading.Thread(target=boot)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run_schemathesis(port: int, directory: Path) -> None:
    """Run it in a directory. It writes the log of its requests there: ``har.json``."""
    command = (sys.executable, "-m", "schemathesis.cli", f"--config-file={CONFIG}", "run")
    options = ["--report=har", f"--report-har-path={directory / 'har.json'}"]
    if os.environ.get("CI"):
        options.append("--generation-deterministic")
    run = subprocess.run(
        [*command, *options, f"http://127.0.0.1:{port}/openapi.json"],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIME_LIMIT,
    )
    assert run.returncode == 0, run.stdout


def answered(har: Path) -> set[tuple[str, str, int]]:
    """Return the statuses of each method and path, from a log."""
    found: set[tuple[str, str, int]] = set()
    for entry in json.loads(har.read_text())["log"]["entries"]:
        url: str = entry["request"]["url"]
        path = re.sub("(?<=/heartbeats/).*", "{cid}", urlsplit(url).path)
        found.add((entry["request"]["method"], path, entry["response"]["status"]))
    return found


def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    paths = (tmp_path / "one", tmp_path / "two")
    with serving(*paths, options=("--quiet",)) as server:
        with beating(*paths):
            run_schemathesis(server.port, tmp_path)
        assert server.end() == ""
    assert answered(tmp_path / "har.json") >= ANSWERED
