# SPDX-License-Identifier: Apache-2.0
"""``serve`` and ``run`` when they are started for sockets that are passed to them."""

import json
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import HEARTBEAT, NITROHB, Script, beat, connected, listening, started

# A service manager's last step: the sockets to 3 and up, the variables, the program.
ACTIVATE = """\
import fcntl, os, sys
fds, names, pid, *command = sys.argv[1:]
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds.split(",")]
os.closerange(3, 100)
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number)
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(fds))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"""


@contextmanager
def activated(
    *args: str, sockets: Sequence[socket.socket], names: str = "", pid: str = ""
) -> Generator[Script]:
    """Start nitrohb as a service manager does, with some sockets."""
    fds = [sock.fileno() for sock in sockets]
    activate = (sys.executable, "-S", "-c", ACTIVATE, ",".join(map(str, fds)), names, pid)
    with started(*args, command=(*activate, *NITROHB), pass_fds=tuple(fds)) as script:
        yield script


def test_without_an_address_it_serves_all_sockets_and_names_them_by_where_they_are_bound(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with listening(one) as first, listening(two) as second, connected(one) as early:
        early.sendall(HEARTBEAT)
        with activated("--format", "json", sockets=[first, second]) as script:
            assert early.recv(2) == HEARTBEAT, "what came before it was started is answered"
            assert beat(two) == HEARTBEAT
            code, out, err = script.end()
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    done = [event["address"] for event in events if event["event"] == "done"]
    assert sorted(done) == [f"unix:{one}", f"unix:{two}"]
    assert one.is_socket(), "it is not ours to remove"


def test_one_of_them_by_its_name(tmp_path: Path) -> None:
    with listening(tmp_path / "one") as first, listening(tmp_path / "two") as second:
        args = ("-l", "fd:second", "--format", "json")
        with activated(*args, sockets=[first, second], names="first:second") as script:
            assert script.event()["address"] == f"unix:{tmp_path}/two"
            assert beat(tmp_path / "two") == HEARTBEAT
            assert script.end()[0] == 0


def test_one_by_its_number_and_a_signal_leaves_its_socket_file(sock: Path) -> None:
    with listening(sock) as server:
        fd = server.fileno()
        args = ("--keep", "--format", "json", "-l", f"fd:{fd}")
        with started(*args, pass_fds=(fd,)) as script:
            assert beat(sock) == HEARTBEAT
            assert [script.event()["address"] for _ in range(3)] == [f"unix:{sock}"] * 3
            script.popen.terminate()
            assert script.end() == (143, "", "")
    assert sock.is_socket(), "it is not ours to remove"


def test_what_is_meant_for_another_process_is_left_alone(sock: Path) -> None:
    """Then the default is the default: here it fails or not, but the socket is not touched."""
    with listening(sock) as server:
        args = ("--format", "json", "--timeout", "0.01")
        with activated(*args, sockets=[server], pid="1") as script:
            _, out, err = script.end()
    assert str(sock) not in out + err
    assert "vsock::9000" in out + err


def test_sockets_and_variables_that_are_refused(sock: Path) -> None:
    with listening(sock) as server:
        for sockets, names, fact in [
            ([server, server], "", f"unix:{sock} is named twice"),
            ([server], "a:b", "LISTEN_FDNAMES has 2 names"),
        ]:
            with activated(sockets=sockets, names=names) as script:
                code, out, err = script.end()
            assert (code, out) == (2, ""), fact
            assert fact in err


def test_run_serves_them_and_its_command_has_neither_socket_nor_variable(sock: Path) -> None:
    look = (
        "import os, sys\n"
        "print(sorted(name for name in os.environ if name.startswith('LISTEN_')))\n"
        "print(os.environ['NITROHB_LISTEN'], os.path.exists('/proc/self/fd/3'), flush=True)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    send = (*NITROHB, "send", f"unix:{sock}")
    with listening(sock) as server:
        command = (sys.executable, "-I", "-S", "-c", look, *send)
        with activated("run", "--quiet", "--", *command, sockets=[server]) as script:
            assert script.line() == "[]\n"
            assert script.line() == f"unix:{sock} False\n"
            code, _, err = script.end()
    assert (code, err) == (0, "")
