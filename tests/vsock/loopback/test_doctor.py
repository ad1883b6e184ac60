# SPDX-License-Identifier: Apache-2.0
"""The doctor in a kernel that has AF_VSOCK and its loopback."""

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import NITROHB, nitrohb_here, started

pytestmark = pytest.mark.vsock

Checks = dict[str, dict[str, Any]]

LOCAL = 1  # VMADDR_CID_LOCAL: the loopback
# Still the user that can read this Python, but without privileges.
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--")


def doctor(*args: str, command: tuple[str, ...] = ()) -> tuple[int, Checks]:
    """Run the doctor: here, or under a command. Returns its exit code, and its checks by name."""
    args = ("doctor", "--format", "json", *args)
    if command:
        with started(*args, command=(*command, *NITROHB)) as script:
            code, out, err = script.end()
    else:
        code, out, err = nitrohb_here(*args)
    assert err == ""
    return code, {check["name"]: check for check in json.loads(out)["checks"]}


@contextmanager
def serving() -> Generator[int]:
    """Run a server on vsock::9000 in another process. Yields its process ID when it listens."""
    with started("serve", "--keep", "--format", "json") as server:
        assert server.event()["event"] == "listening"
        yield server.popen.pid


def test_cid_1_works() -> None:
    code, checks = doctor()
    assert code == 0
    assert checks["listen"]["verdict"] == "ok"
    assert checks["reach"]["verdict"] == "info"
    assert "over the loopback" in checks["reach"]["evidence"]
    assert "vsock_loopback" not in checks["reach"]["remedy"]
    assert [doctor("--for", kind)[0] for kind in ("qemu", "nitro", "firecracker")] == [0, 1, 1]


def test_nothing_stays_bound() -> None:
    for _ in range(2):
        assert doctor("-l", "vsock::9000", "-l", f"vsock:{LOCAL}:9001")[0] == 0


def test_a_cid_of_another_machine_and_the_remedy() -> None:
    code, checks = doctor("-l", "vsock:3:9000")
    assert code == 1
    remedy = checks["listen"]["remedy"]
    assert "the local CID, 1" in remedy
    assert "vsock::9000" in remedy
    assert nitrohb_here("-l", "vsock:3:9000")[2].splitlines()[1] == remedy


def test_a_process_is_suspected_unless_this_user_cannot_see_it() -> None:
    with serving() as pid:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        for cid in ("", str(LOCAL)):
            code, checks = doctor("-l", f"vsock:{cid}:9000")
            assert (code, checks["listen"]["verdict"]) == (1, "failed")
            assert (
                f"(EADDRINUSE); probably held by process {pid} ({comm}), which has"
                in (checks["listen"]["evidence"])
            )
            assert "ss --vsock -lp" in checks["listen"]["remedy"]
        _, checks = doctor(command=UNPRIVILEGED)
        assert "(EADDRINUSE); the holder is not visible" in checks["listen"]["evidence"]


@pytest.mark.parametrize(("port", "status"), [(80, 1), (9000, 0)])
def test_without_privilege(port: int, status: int) -> None:
    code, checks = doctor("-l", f"vsock::{port}", command=UNPRIVILEGED)
    assert code == status
    assert ("(EACCES)" in checks["listen"]["evidence"]) == bool(status)
    assert ("reach" in checks) == (not status)


def test_a_container_without_dev_and_proc() -> None:
    """A separate mount namespace plays the container."""
    hide = 'for each in /dev /proc /sys; do mount -t tmpfs none $each; done; exec "$@"'
    command = ("unshare", "--mount", "sh", "-c", hide, "sh")
    code, checks = doctor(command=command)
    assert code == 0
    assert "over the loopback" in checks["reach"]["evidence"]
    assert checks["self-test-unix"]["verdict"] == "ok"
    with serving():
        code, checks = doctor(command=command)
    assert (code, checks["listen"]["verdict"]) == (1, "failed")
    assert "(EADDRINUSE); the holder is not visible" in checks["listen"]["evidence"]
    assert os.path.exists("/dev/vsock")
