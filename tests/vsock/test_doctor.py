# SPDX-License-Identifier: Apache-2.0
"""The doctor in a kernel that has AF_VSOCK, its loopback, and sock_diag for it."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nitrohb.doctor.holders import Bound, bound_sockets
from tests.support import child

pytestmark = pytest.mark.vsock

Checks = dict[str, dict[str, Any]]

LOCAL = 1  # VMADDR_CID_LOCAL: the loopback
NITROHB = [sys.executable, "-m", "nitrohb"]
# Still the user who can read the Python that runs here, but as powerless as any other.
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--")


def doctor(*args: str, command: tuple[str, ...] = ()) -> tuple[int, Checks]:
    """Run the doctor. Returns its exit code, and its checks by name; of many, the last."""
    done = subprocess.run(
        [*command, *NITROHB, "doctor", "--format", "json", *args],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_cid_1_works() -> None:
    code, checks = doctor()
    assert code == 0
    verdicts = {name: check["verdict"] for name, check in checks.items()}
    for name in ("listen", "python", "kernel", "seccomp", "transport-loopback", "local-cid"):
        assert verdicts[name] == "ok"
    assert verdicts["self-test-loopback"] == verdicts["device-vsock"] == "ok"
    assert verdicts["transport-guest"] == verdicts["transport-host"] == "info"
    assert "module vsock_loopback" in checks["transport-loopback"]["evidence"]
    assert checks["local-cid"]["evidence"] == "CID 1: only the loopback"
    assert "a heartbeat was answered in " in checks["self-test-loopback"]["evidence"]


def test_nothing_stays_bound() -> None:
    before = bound_sockets()
    assert doctor("-l", "vsock::9000", "-l", f"vsock:{LOCAL}:9001")[0] == 0
    assert bound_sockets() == before


def test_a_cid_of_another_machine_and_what_to_name_instead() -> None:
    code, checks = doctor("-l", "vsock:3:9000")
    assert code == 1
    remedy = "Name the local CID, 1, or write vsock::9000 to listen on every one."
    assert checks["listen"]["remedy"] == remedy
    done = subprocess.run([*NITROHB, "-l", "vsock:3:9000"], capture_output=True, text=True)
    assert done.stderr.splitlines()[1] == remedy


@contextmanager
def serving() -> Generator[int]:
    """A server on vsock::9000 in another process, once it listens. Yields the process's number."""
    command = [*NITROHB, "serve", "--keep", "--format", "json"]
    with child(command, stdout=subprocess.PIPE) as server:
        assert json.loads(server.stdout.readline())["event"] == "listening"
        yield server.pid


@pytest.mark.parametrize("cid", ["", str(LOCAL)])
def test_the_holder_of_a_port_is_named(cid: str) -> None:
    with serving() as pid:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        code, checks = doctor("-l", f"vsock:{cid}:9000")
    assert code == 1
    assert checks["listen"]["verdict"] == "failed"
    evidence = checks["listen"]["evidence"]
    assert evidence.endswith(f"(EADDRINUSE); held by process {pid} ({comm})")
    assert "Stop the other listener" in checks["listen"]["remedy"]
    assert checks["self-test-loopback"]["verdict"] == "ok"


def test_a_holder_among_its_connections() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as client, serving() as pid:
        client.connect((LOCAL, 9000))
        bound = [each for each in bound_sockets() if each.port == 9000]
        assert Bound(2**32 - 1, 9000, bound[0].inode, has_peer=False) in bound
        _, checks = doctor()
    assert f"held by process {pid} (" in checks["listen"]["evidence"]


def test_a_holder_that_this_user_may_not_see_is_not_named() -> None:
    with serving():
        _, checks = doctor(command=UNPRIVILEGED)
    assert checks["listen"]["evidence"].endswith("held by a process that this user cannot see")


@pytest.mark.parametrize(("port", "status"), [(80, 1), (9000, 0)])
def test_without_privilege(port: int, status: int) -> None:
    code, checks = doctor("-l", f"vsock::{port}", command=UNPRIVILEGED)
    assert code == status
    assert ("(EACCES)" in checks["listen"]["evidence"]) == bool(status)
    assert checks["local-cid"]["evidence"] == "CID 1: only the loopback"
    assert checks["self-test-loopback"]["verdict"] == "ok"


def test_a_container_without_dev_and_proc() -> None:
    """As far as a mount namespace of its own makes one."""
    hide = 'for each in /dev /proc /sys; do mount -t tmpfs none $each; done; exec "$@"'
    command = ("unshare", "--mount", "sh", "-c", hide, "sh")
    code, checks = doctor(command=command)
    assert code == 0
    assert checks["device-vsock"]["evidence"] == "it is not there"
    assert checks["local-cid"]["verdict"] == "skipped"
    assert "ENOENT" in checks["local-cid"]["evidence"]
    assert checks["transport-loopback"]["evidence"].startswith("there: ")
    assert checks["transport-guest"]["verdict"] == "skipped"
    assert checks["namespace"]["verdict"] == "skipped"
    assert checks["self-test-unix"]["verdict"] == checks["self-test-loopback"]["verdict"] == "ok"
    with serving():
        code, checks = doctor(command=command)
    assert (code, checks["listen"]["verdict"]) == (1, "failed")
    assert checks["listen"]["evidence"].endswith("held by a process that this user cannot see")
    assert os.path.exists("/dev/vsock")
