# SPDX-License-Identifier: Apache-2.0
"""What a real systemd-journald reads from the lines of nitrohb, in a separate mount namespace.

There /run is empty, so the journal of the machine gets nothing. A service is started as systemd
does it: connected to the journal's stream socket, which JOURNAL_STREAM names (systemd.exec(5)).
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.support import child

JOURNALD = "/lib/systemd/systemd-journald"
STREAM = "/run/systemd/journal/stdout"
PATIENCE = 30.0  # seconds


def test_priorities_in_the_journal() -> None:
    root = [] if os.geteuid() == 0 else ["--map-root-user"]
    unshare = ["unshare", *root, "--mount", "--pid", "--fork", "--kill-child"]
    inside = [sys.executable, "-m", "tests.proofs.test_journal"]
    root_of_tests = Path(__file__).parents[2]
    done = subprocess.run(
        [*unshare, *inside], cwd=root_of_tests, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    entries = [(int(entry["PRIORITY"]), entry["MESSAGE"]) for entry in told]
    events = [
        (priority, message.split()[1]) for priority, message in entries if "nitro_" in message
    ]
    assert events == [
        (6, "nitro_listening"),
        (7, "nitro_connected"),
        (4, "nitro_rejected"),
        (7, "nitro_connected"),
        (6, "nitro_heartbeat"),
        (6, "nitro_done"),
    ]
    assert entries[len(events) :] == [
        (3, "nitrohb: cannot listen on unix:/missing/s: /missing does not exist (ENOENT)"),
        (3, "Create it first: mkdir -p /missing"),
        (3, "nitrohb: unknown arguments: --port"),
        (3, "Try: nitrohb serve --help"),
    ]


@contextmanager
def as_service(*args: str) -> Generator["subprocess.Popen[bytes]"]:
    """Start nitrohb with stdout and stderr connected to the journal."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(STREAM)
        # Identifier, unit, priority, whether lines have priorities, and three ways to forward.
        stream.sendall(b"nitrohb\n\n6\n1\n0\n0\n0\n")
        status = os.fstat(stream.fileno())
        env = os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        command = [sys.executable, "-m", "nitrohb", *args]
        with child(command, stdout=stream.fileno(), stderr=stream.fileno(), env=env) as service:
            yield service


def wait_for_file(path: str) -> None:
    until = time.monotonic() + PATIENCE
    while not Path(path).is_socket():
        assert time.monotonic() < until, f"there is no {path}"
        time.sleep(0.01)


def main() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.makedirs("/run/systemd/journal")
    with child([JOURNALD], stdout=sys.stderr):
        wait_for_file(STREAM)
        with as_service("-l", "unix:/run/s") as server:
            wait_for_file("/run/s")
            for byte in (b"\0", b"\xb7"):
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect("/run/s")
                    client.sendall(byte)
                    client.recv(1)
            assert server.wait(PATIENCE) == 0
        for args in (("-l", "unix:/missing/s"), ("--port",)):
            with as_service(*args) as failing:
                assert failing.wait(PATIENCE) in (1, 2)
        subprocess.run(["journalctl", "--sync"], check=True)
        subprocess.run(["journalctl", "-t", "nitrohb", "-o", "json", "--no-pager"], check=True)


if __name__ == "__main__":
    main()
