# SPDX-License-Identifier: Apache-2.0
"""``serve`` and ``run`` when they are started for sockets that are passed to them."""

import json
import signal
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .process import HEARTBEAT, NITROHB, Script, beat, listening, nitrohb, started

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
    with (
        listening(one) as first,
        listening(two) as second,
        activated("--format", "json", sockets=[first, second]) as script,
    ):
        assert beat(two) == HEARTBEAT
        assert beat(one) == HEARTBEAT
        code, out, err = script.end()
    assert (code, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    done = [event["address"] for event in events if event["event"] == "done"]
    assert sorted(done) == [f"unix:{one}", f"unix:{two}"]
    assert one.is_socket(), "it is not ours to remove"


def test_a_byte_that_came_before_it_was_started_is_answered(sock: Path) -> None:
    with listening(sock) as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(sock))
        client.sendall(HEARTBEAT)
        with activated("--quiet", sockets=[server]) as script:
            client.settimeout(30)
            assert client.recv(2) == HEARTBEAT
            assert script.end() == (0, "", "")


def test_one_of_them_by_its_name(tmp_path: Path) -> None:
    with listening(tmp_path / "one") as first, listening(tmp_path / "two") as second:
        args = ("-l", "fd:second", "--format", "json")
        with activated(*args, sockets=[first, second], names="first:second") as script:
            assert script.event()["address"] == f"unix:{tmp_path}/two"
            assert beat(tmp_path / "two") == HEARTBEAT
            assert script.end()[0] == 0


def test_what_is_meant_for_another_process_is_left_alone(sock: Path, tmp_path: Path) -> None:
    """Then the default is the default: here it fails or not, but the socket is not touched."""
    with listening(sock) as server:
        args = ("--format", "json", "--timeout", "0.2")
        with activated(*args, sockets=[server], pid="1") as script:
            _, out, err = script.end()
    assert str(sock) not in out + err
    assert "vsock::9000" in out + err


def test_the_same_socket_twice(sock: Path) -> None:
    with listening(sock) as server, activated(sockets=[server, server]) as script:
        code, out, err = script.end()
    assert (code, out) == (2, "")
    assert err == (f"nitrohb: unix:{sock} is named twice: an address can be listened on once\n")


def test_variables_that_cannot_be_understood(sock: Path) -> None:
    with listening(sock) as server, activated(sockets=[server], names="a:b") as script:
        code, out, err = script.end()
    assert (code, out) == (2, "")
    assert err.startswith("nitrohb: LISTEN_FDNAMES has 2 names for the 1 sockets of LISTEN_FDS: ")


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


def test_a_signal_ends_it_and_leaves_the_socket_file(sock: Path) -> None:
    args = ("--keep", "--format", "json")
    with listening(sock) as server, activated(*args, sockets=[server]) as script:
        assert script.event()["event"] == "listening"
        script.popen.send_signal(signal.SIGTERM)
        assert script.end() == (143, "", "")
    assert sock.is_socket(), "it is not ours to remove"


def test_a_name_without_any_socket() -> None:
    assert nitrohb("-l", "fd:heartbeat") == (
        1,
        "",
        "nitrohb: cannot listen on fd:heartbeat: no socket of this name was passed in; those that"
        " were: none at all\n"
        "The names are in LISTEN_FDNAMES; in a systemd socket unit FileDescriptorName= sets one.\n",
    )
