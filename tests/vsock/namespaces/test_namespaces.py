# SPDX-License-Identifier: Apache-2.0
"""vsock namespaces, which Linux 7.0 and later have: local and global ones in the same kernel."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from nitrohb.remedies import LOCAL_ADVICE
from tests.cli.process import NITROHB, Script, started
from tests.support import child

pytestmark = pytest.mark.vsock

PATIENCE = 60  # seconds: this kernel is slow, and nothing here measures it
ECHOED, NO_CONNECTION = 0, 3  # of tests/vsock/enclave.c

GLOBAL = ("unshare", "--net")
# The mode for the children of a namespace can be set once.
LOCALLY = 'echo local > /proc/sys/net/vsock/child_ns_mode; exec unshare --net "$@"'
LOCAL = ("unshare", "--net", "sh", "-c", LOCALLY, "sh")

REASON, REMEDY = LOCAL_ADVICE

# Opens a socket, like socket activation, and becomes the command in its arguments.
LISTENING = """
import os, socket, sys
sock = socket.socket(socket.AF_VSOCK)
sock.bind((socket.VMADDR_CID_ANY, 9000))
sock.listen()
os.dup2(sock.fileno(), 9)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def namespace(kind: tuple[str, ...]) -> Generator[tuple[str, ...]]:
    """Create a network namespace. Yields a prefix for commands that run in it."""
    hold = [*kind, "sh", "-c", "echo ready; exec sleep infinity"]
    with child(hold, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"ready\n"
        yield ("nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")


@pytest.fixture
def local() -> Iterator[tuple[str, ...]]:
    with namespace(LOCAL) as there:
        yield there


def enclave(*there: str) -> int:
    """Run the client that does what init does, and return its exit status."""
    command = [*there, os.environ["NITROHB_ENCLAVE"], "1", "9000"]
    return subprocess.run(command, timeout=PATIENCE).returncode


@contextmanager
def serving(*there: str) -> Generator[Script]:
    """Run a server in a namespace. The block begins when it listens."""
    with started("serve", "--keep", "--format", "json", command=(*there, *NITROHB)) as server:
        assert server.event()["event"] == "listening"
        yield server


def end(server: Script) -> tuple[int, list[str]]:
    """End a server. Return the number of its heartbeats, and its messages on stderr."""
    server.popen.send_signal(signal.SIGTERM)
    _, out, err = server.end()
    events = [json.loads(line)["event"] for line in out.splitlines()]
    return events.count("heartbeat"), [json.loads(line)["message"] for line in err.splitlines()]


def reach(*command: str, pass_fds: tuple[int, ...] = (), fd: int = 9) -> tuple[str, str, str]:
    """The verdict, evidence and remedy of the doctor for a socket that is passed in."""
    options = ("doctor", "--format", "json", "-l", f"fd:{fd}")
    with started(*options, command=(*command, *NITROHB), pass_fds=pass_fds) as doctor:
        code, out, err = doctor.end()
    assert (code, err) == (0, "")
    check = json.loads(out)["checks"][1]
    return check["verdict"], check["evidence"], check["remedy"]


def test_a_local_and_a_global_server_have_the_same_port(local: tuple[str, ...]) -> None:
    """Each gets only its own clients. The local one warns of this."""
    with serving(*local) as inner:
        assert enclave() == NO_CONNECTION
        with serving() as outer:
            assert [enclave(), enclave(*local), enclave()] == [ECHOED] * 3
            with started(command=(*local, *NITROHB)) as second:
                code, _, err = second.end()
                assert code == 1
                assert "(EADDRINUSE)" in err
            assert end(outer) == (2, [])
        assert end(inner) == (1, [f"vsock::9000: {REASON}\n{REMEDY}"])


def test_a_global_namespace_shares_its_ports_with_the_machine() -> None:
    with namespace(GLOBAL) as there, serving(*there) as server:
        with socket.socket(socket.AF_VSOCK) as sock, pytest.raises(OSError, match="in use"):
            sock.bind((socket.VMADDR_CID_ANY, 9000))
        assert enclave() == ECHOED
        assert end(server) == (1, [])


def test_a_socket_is_of_the_namespace_in_which_it_was_opened(local: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_VSOCK) as sock:
        sock.bind((socket.VMADDR_CID_ANY, 9000))
        sock.listen()
        fd = sock.fileno()
        verdict, evidence, _ = reach(*local, pass_fds=(fd,), fd=fd)
        assert (verdict, "over the loopback" in evidence) == ("info", True)
        opening = (*local, sys.executable, "-c", LISTENING)
        assert reach(*opening) == ("warning", REASON, REMEDY)

        options = ("serve", "-l", f"fd:{fd}", "--format", "json")
        with started(*options, command=(*local, *NITROHB), pass_fds=(fd,)) as server:
            assert enclave(*local) == NO_CONNECTION
            assert enclave() == ECHOED
            code, _, err = server.end()
            assert (code, err) == (0, "")
