# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles of containers: one that blocks AF_VSOCK, as Docker's default does, and ours."""

import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

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


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="this Python has no AF_VSOCK")
def test_a_profile_that_blocks_af_vsock_is_named() -> None:
    done = subprocess.run(NITROHB, preexec_fn=block_af_vsock, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "AF_VSOCK is not permitted here" in done.stderr
    assert "seccomp" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_the_doctor_sees_the_filter() -> None:
    """As it does not without one, on the same machine; and knows what works in spite of it."""
    seen: list[dict[str, Any]] = []
    for listen, code in (("vsock::9000", 1), ("unix:/nowhere/s", 1)):
        done = subprocess.run(
            [*NITROHB, "doctor", "--format", "json", "-l", listen],
            preexec_fn=block_af_vsock,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (code, "")
        seen.append({check["name"]: check for check in json.loads(done.stdout)["checks"]})
    asked, not_asked = seen
    assert asked["seccomp"]["verdict"] == "failed"
    assert not_asked["seccomp"]["verdict"] == "info"
    for checks in seen:
        assert "a filter is set, AF_VSOCK is refused (EPERM)" in checks["seccomp"]["evidence"]
        assert "Allow AF_VSOCK in that profile" in checks["seccomp"]["remedy"]
        assert checks["kernel"]["verdict"] == "skipped"
        assert checks["self-test-unix"]["verdict"] == "ok"
        assert checks["self-test-loopback"]["verdict"] == "skipped"


PROFILE = Path(__file__).parents[1] / "deploy/seccomp/nitrohb.json"
# Not measured: coverage writes what it has seen by system calls that the server does not need.
UNMEASURED = ("env", "-u", "COVERAGE_PROCESS_CONFIG", "-u", "COVERAGE_PROCESS_START")
UNDER_PROFILE = (*UNMEASURED, sys.executable, "-m", "tests.seccomp_profile", str(PROFILE))


def under_profile(code: str) -> str:
    done = subprocess.run([*UNDER_PROFILE, sys.executable, "-c", code], capture_output=True)
    return done.stderr.decode()


def test_our_profile_lets_serve_do_its_work(tmp_path: Path) -> None:
    hb, api = tmp_path / "hb", tmp_path / "api"
    args = ("serve", "--keep", "--socket-mode=660", "-l", f"unix:{hb}", "--api", f"unix:{api}")
    with started(*args, command=(*UNDER_PROFILE, *NITROHB)) as script:
        assert beat(hb) == HEARTBEAT
        assert beat(hb, b"\x00") == b""
        hb.unlink()  # which it notices, by inotify(7), and listens there again
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


@pytest.mark.parametrize(
    "what", ["os.fork()", "socket.socket(socket.AF_NETLINK)", "os.link('a', 'b')"]
)
def test_our_profile_allows_no_more(what: str) -> None:
    assert "Function not implemented" in under_profile(f"import os, socket; {what}")


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET", "AF_INET6"])
def test_our_profile_allows_the_families_that_we_listen_on(family: str) -> None:
    assert under_profile(f"import socket; socket.socket(socket.{family})") == ""


def test_our_profile_lets_the_kernel_tell_of_socket_files(tmp_path: Path) -> None:
    """The server can do without, but then looks at each of them twice a second."""
    code = (
        "import os, select; from nitrohb.inotify import ATTRIB, Inotify\n"
        f"path = {str(tmp_path)!r}\n"
        "with Inotify() as inotify:\n"
        "    inotify.watch({path: ATTRIB})\n"
        "    os.chmod(path, 0o700)\n"
        "    assert select.select([inotify], [], [], 10)[0]\n"
        "    inotify.clear()\n"
        "    inotify.watch({})\n"
        "    assert select.select([inotify], [], [], 10)[0]\n"  # IN_IGNORED: it ends
    )
    assert under_profile(code) == ""
