# SPDX-License-Identifier: Apache-2.0
"""Sockets that are passed to ``serve`` and ``run``. tests/sockets has the variables."""

import json
import os
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import (
    HEARTBEAT,
    NITROHB,
    Script,
    beat,
    connected,
    listening,
    nitrohb_here,
    started,
)

# The last step of a service manager: put sockets at 3 and up, set variables, run the program.
ACTIVATE = """\
import fcntl, os, sys
fds, names, *command = sys.argv[1:]
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds.split(",")]
os.closerange(3, 100)
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(fds))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"""


@contextmanager
def activated(*args: str, sockets: Sequence[socket.socket], names: str = "") -> Generator[Script]:
    """Start nitrohb as a service manager does, with some sockets."""
    fds = [sock.fileno() for sock in sockets]
    activate = (sys.executable, "-S", "-c", ACTIVATE, ",".join(map(str, fds)), names)
    with started(*args, command=(*activate, *NITROHB), pass_fds=tuple(fds)) as script:
        yield script


def test_without_an_address_all_sockets_are_served(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with listening(one) as first, listening(two) as second, connected(one) as early:
        early.sendall(HEARTBEAT)
        with activated("--format", "json", sockets=[first, second]) as script:
            assert early.recv(2) == HEARTBEAT  # sent before nitrohb was started
            assert beat(two) == HEARTBEAT
            code, out, err = script.end()
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    done = [event["address"] for event in events if event["event"] == "done"]
    assert sorted(done) == [f"unix:{one}", f"unix:{two}"]


def test_socket_by_its_name_and_its_file_stays_after_a_signal(tmp_path: Path) -> None:
    """The process that made the file removes it."""
    two = tmp_path / "two"
    with listening(tmp_path / "one") as first, listening(two) as second:
        args = ("-l", "fd:second", "--keep", "--format", "json")
        with activated(*args, sockets=[first, second], names="first:second") as script:
            assert beat(two) == HEARTBEAT
            assert [script.event()["address"] for _ in range(3)] == [f"unix:{two}"] * 3
            script.popen.terminate()
            assert script.end() == (143, "", "")
    assert two.is_socket()


def test_sockets_that_cannot_be_served(sock: Path) -> None:
    with listening(sock) as server:
        with activated(sockets=[server, server]) as script:
            code, out, err = script.end()
        assert (code, out) == (2, "")
        assert f"unix:{sock}: it is named twice" in err
        here = ("run", "-l", f"fd:{server.detach()}", "--allow-cid", "4", "--", "echo", "started")
        code, out, err = nitrohb_here(*here)
    assert (code, out) == (2, "")
    assert f"unix:{sock}: peers of a Unix socket have no CID" in err


def test_socket_without_an_address_is_reported_by_its_descriptor() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0nitrohb-test-{os.getpid()}")
        server.listen()
        fd = server.detach()  # nitrohb closes it
        code, _, err = nitrohb_here("-l", f"fd:{fd}", "--timeout", "0.01", "--quiet")
    assert code == 124
    assert f"no heartbeat on fd:{fd} within 0.01 s: nobody connected\n" in err


LOOK = """\
import os, sys
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
print(os.environ["NITROHB_LISTEN"], os.path.exists("/proc/self/fd/3"), flush=True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_command_of_run_has_neither_the_sockets_nor_the_variables(sock: Path) -> None:
    send = (*NITROHB, "send", f"unix:{sock}")
    with listening(sock) as server:
        command = (sys.executable, "-I", "-S", "-c", LOOK, *send)
        with activated("run", "--quiet", "--", *command, sockets=[server]) as script:
            assert script.line() == "[]\n"
            assert script.line() == f"unix:{sock} False\n"
            code, _, err = script.end()
    assert (code, err) == (0, "")
