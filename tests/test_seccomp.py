# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles of containers: one that blocks AF_VSOCK, as Docker does, and ours."""

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from .cli.process import HEARTBEAT, beat, connected, started, wait_for_file

# linux/filter.h, linux/seccomp.h, linux/prctl.h
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL_WITH_EPERM = 0x7FFF0000, 0x00050000 | 1
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
SOCKET = {"x86_64": 41, "aarch64": 198}  # the number of socket(2)
AF_VSOCK = 40
NUMBER, FIRST_ARGUMENT = 0, 16  # offsets in struct seccomp_data, the arguments little-endian

NITROHB = [sys.executable, "-m", "nitrohb"]


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def block_af_vsock() -> None:
    """Let socket(AF_VSOCK, ...) fail with EPERM in this process and its children."""
    code = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (LOAD_WORD, 0, 0, NUMBER),
            (JUMP_EQUAL, 0, 3, SOCKET[os.uname().machine]),
            (LOAD_WORD, 0, 0, FIRST_ARGUMENT),
            (JUMP_EQUAL, 0, 1, AF_VSOCK),
            (RETURN, 0, 0, FAIL_WITH_EPERM),
            (RETURN, 0, 0, ALLOW),
        )
    )
    program = Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


pytestmark = pytest.mark.skipif(
    os.uname().machine not in SOCKET, reason="the number of socket(2) is not known for this machine"
)


# Runs commands in one process, and prints the exit code, stdout and stderr of each.
RUN_EACH = """
import json, sys
from tests.cli.process import nitrohb_here
print(json.dumps([nitrohb_here(*args) for args in json.loads(sys.argv[1])]))
"""


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="this Python has no AF_VSOCK")
def test_a_profile_that_blocks_af_vsock_is_named() -> None:
    """The server explains it, and the doctor says what still works."""
    doctor = ["doctor", "--format", "json", "-l"]
    commands = [[], [*doctor, "vsock::9000"], [*doctor, "unix:/nowhere/s"]]
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH, json.dumps(commands)],
        preexec_fn=block_af_vsock,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    (code, out, err), asked, not_asked = json.loads(done.stdout)
    assert (code, out) == (1, "")
    assert "AF_VSOCK" in err
    assert "seccomp" in err
    assert len(err.splitlines()) == 2
    for (code, out, err), is_vsock in ((asked, True), (not_asked, False)):
        assert (code, err) == (1, "")
        checks = {check["name"]: check for check in json.loads(out)["checks"]}
        assert ("seccomp profile" in checks["listen"]["evidence"]) == is_vsock
        assert ("Allow AF_VSOCK" in checks["listen"]["remedy"]) == is_vsock
        assert checks["self-test-unix"]["verdict"] == "ok"


PROFILE = Path(__file__).parents[1] / "deploy/seccomp/nitrohb.json"
# Without coverage, which needs more system calls than the server.
UNMEASURED = ("env", "-u", "COVERAGE_PROCESS_CONFIG", "-u", "COVERAGE_PROCESS_START")
UNDER_PROFILE = (*UNMEASURED, sys.executable, "-m", "tests.seccomp_profile", str(PROFILE))


def test_our_profile_lets_serve_do_its_work(tmp_path: Path) -> None:
    hb, api = tmp_path / "hb", tmp_path / "api"
    args = ("serve", "--keep", "--socket-mode=660", "-l", f"unix:{hb}", "--api", f"unix:{api}")
    with started(*args, command=(*UNDER_PROFILE, *NITROHB)) as script:
        assert beat(hb) == HEARTBEAT
        assert beat(hb, b"\x00") == b""
        hb.unlink()  # which it notices, and creates again
        wait_for_file(hb)
        assert beat(hb) == HEARTBEAT
        wait = (*UNDER_PROFILE, *NITROHB)
        with started("wait", f"--api=unix:{api}", f"--address=unix:{hb}", command=wait) as launcher:
            code, out, err = launcher.end()
        assert (code, err) == (0, "")
        assert "heartbeat" in out
        with connected(api) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(partial(client.recv, 4096), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"process_open_fds" in answer
        script.popen.terminate()
        code, _, err = script.end()
        assert (code, err) == (143, "")
    assert not hb.exists()


def test_our_profile_allows_no_command_and_run_says_so(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/hb"
    with started("run", "-l", address, "--", "true", command=(*UNDER_PROFILE, *NITROHB)) as script:
        code, _, err = script.end()
    assert code == 126
    assert "seccomp profile" in err
    assert "Traceback" not in err


UNDER_IT = """
import errno, os, socket


for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
    socket.socket(family).close()

for refused in (os.fork, lambda: socket.socket(socket.AF_NETLINK), lambda: os.link("a", "b")):
    try:
        refused()
    except OSError as error:
        assert error.errno == errno.ENOSYS, error
    else:
        raise AssertionError("that was allowed")
"""


def test_our_profile_allows_what_a_server_needs_and_no_more() -> None:
    command = [*UNDER_PROFILE, sys.executable, "-c", UNDER_IT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
