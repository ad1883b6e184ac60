# SPDX-License-Identifier: Apache-2.0
"""What a person reads when an address cannot be used."""

import copy
import errno
import os
import pickle
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nitrohb import remedies
from nitrohb.addresses import (
    CID_ANY,
    Address,
    HybridAddress,
    InheritedSocket,
    UnixAddress,
    VsockAddress,
)
from nitrohb.errors import UnusableAddressError
from nitrohb.remedies import (
    NO_AF_VSOCK,
    connect_error,
    listen_error,
    start_advice,
    without_doctor,
)

VSOCK: list[Address] = [VsockAddress(CID_ANY, 9000), VsockAddress(1, 9000), VsockAddress(3, 9000)]
UNIX: list[Address] = [
    UnixAddress("/run/{x}.sock"),
    UnixAddress("x"),
    HybridAddress("/tmp/vm4", 9000),
]
FD = InheritedSocket(3)

Make = Callable[[Address, int], UnusableAddressError]

ERRNOS = [NO_AF_VSOCK, 0, 9999, *errno.errorcode]


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("address", [*VSOCK, *UNIX, FD], ids=str)
def test_listen_errors_say_two_things(address: Address, number: int) -> None:
    check(listen_error(address, number), "cannot listen on", address, number)


@pytest.mark.parametrize("number", ERRNOS)
@pytest.mark.parametrize("address", [*VSOCK, *UNIX], ids=str)
def test_connect_errors_say_two_things(address: Address, number: int) -> None:
    check(connect_error(address, number), "cannot connect to", address, number)


def check(error: UnusableAddressError, doing: str, address: Address, number: int) -> None:
    """One line of what is wrong, one of what helps, whatever the error is."""
    first, second = str(error).splitlines()
    assert first == f"{doing} {address}: {error.reason}"
    assert second == error.remedy
    assert error.reason
    assert error.remedy
    assert error.address == str(address)
    assert error.errno == (None if number == NO_AF_VSOCK else number)
    if number in errno.errorcode:
        assert error.reason.endswith(f" ({errno.errorcode[number]})")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            listen_error(VsockAddress(1, 9000), errno.EADDRNOTAVAIL),
            "cannot listen on vsock:1:9000:"
            " CID 1 is the loopback, and this kernel has not loaded it (EADDRNOTAVAIL)\n"
            "Load its module (modprobe vsock_loopback), or write vsock::9000.",
        ),
        (
            listen_error(VsockAddress(5, 9000), errno.EADDRNOTAVAIL),
            "cannot listen on vsock:5:9000: CID 5 is not a CID of this machine (EADDRNOTAVAIL)\n"
            "Name the local CID, or write vsock::9000 to listen on every one.",
        ),
        (
            listen_error(VsockAddress(5, 9000), errno.EADDRNOTAVAIL, 3),
            "cannot listen on vsock:5:9000: CID 5 is not a CID of this machine (EADDRNOTAVAIL)\n"
            "Name the local CID, 3, or write vsock::9000 to listen on every one.",
        ),
        (
            listen_error(VsockAddress(5, 1023), errno.EACCES),
            "cannot listen on vsock:5:1023: ports below 1024 need a privilege (EACCES)\n"
            "Use a port from 1024 up (enclaves use 9000), or grant CAP_NET_BIND_SERVICE.",
        ),
        (
            listen_error(VsockAddress(5, 1024), errno.EACCES),
            "cannot listen on vsock:5:1024: a security module (SELinux, AppArmor) does not permit"
            " AF_VSOCK here (EACCES)\n"
            "Allow it in that module's policy, or use a unix: or hybrid: address. nitrohb doctor"
            " tells what this machine can do; nitrohb demo shows a heartbeat on any machine.",
        ),
        (
            listen_error(UnixAddress("/missing/{x}.sock"), errno.ENOENT),
            "cannot listen on unix:/missing/{x}.sock: /missing does not exist (ENOENT)\n"
            "Create it first: mkdir -p /missing",
        ),
        (
            listen_error(UnixAddress("/no such/x"), errno.ENOENT),
            "cannot listen on unix:/no such/x: /no such does not exist (ENOENT)\n"
            "Create it first: mkdir -p '/no such'",
        ),
        (
            listen_error(UnixAddress("/proc/x"), errno.ENOENT),
            "cannot listen on unix:/proc/x: /proc takes no socket files (ENOENT)\n"
            "Choose another directory, for example /run or /tmp.",
        ),
        (
            listen_error(UnixAddress("~/x"), errno.ENOENT),
            "cannot listen on unix:~/x: ~/x is no path in your home directory:"
            " a shell replaces ~ only at the beginning of a word (ENOENT)\n"
            "Write the whole path, or $HOME for ~, as in unix:$HOME/nitrohb.sock.",
        ),
        (
            connect_error(UnixAddress("~/x"), errno.ENOENT),
            "cannot connect to unix:~/x: ~/x is no path in your home directory:"
            " a shell replaces ~ only at the beginning of a word (ENOENT)\n"
            "Write the whole path, or $HOME for ~, as in unix:$HOME/nitrohb.sock.",
        ),
        (
            listen_error(UnixAddress("/proc"), errno.EEXIST),
            "cannot listen on unix:/proc: /proc is a directory (EEXIST)\n"
            "Name a file in it, one that does not exist.",
        ),
        (
            connect_error(UnixAddress("/dev/null"), errno.ECONNREFUSED),
            "cannot connect to unix:/dev/null: /dev/null is not a socket (ECONNREFUSED)\n"
            "Name the socket of a heartbeat server.",
        ),
        (
            connect_error(UnixAddress("/no such/x"), errno.ENOENT),
            "cannot connect to unix:/no such/x: /no such/x does not exist (ENOENT)\n"
            "Start the listener first: nitrohb serve -l 'unix:/no such/x'",
        ),
        (
            listen_error(UnixAddress("x"), errno.EROFS),
            "cannot listen on unix:x: . is on a read-only file system (EROFS)\n"
            "Choose a directory in which you may write.",
        ),
        (
            listen_error(HybridAddress("/tmp/vm4", 9000), errno.EEXIST),
            "cannot listen on hybrid:/tmp/vm4:9000:"
            " /tmp/vm4_9000 exists and is not a socket (EEXIST)\n"
            "Move it away, or choose another path: nitrohb removes nothing but dead sockets.",
        ),
        (
            listen_error(FD, errno.EBADF),
            "cannot listen on fd:3: this process has no open descriptor 3 (EBADF)\n"
            "Pass a listening socket in under that number;"
            " systemd's socket activation begins at fd:3.",
        ),
        (
            connect_error(VsockAddress(3, 9000), errno.ECONNRESET),
            "cannot connect to vsock:3:9000: CID 3 has no listener on port 9000 (ECONNRESET)\n"
            "Start the listener first: nitrohb serve -l vsock::9000 on the machine with that CID.",
        ),
        (
            connect_error(HybridAddress("/tmp/vm4", 9000), errno.ENOENT),
            "cannot connect to hybrid:/tmp/vm4:9000: /tmp/vm4_9000 does not exist (ENOENT)\n"
            "Start the listener first: nitrohb serve -l hybrid:/tmp/vm4:9000",
        ),
        (
            listen_error(VsockAddress(3, 9000), NO_AF_VSOCK),
            "cannot listen on vsock:3:9000: this Python was built without AF_VSOCK\n"
            "Use another Python (a distribution's own has it), or a unix: or hybrid: address."
            " nitrohb doctor tells what this machine can do;"
            " nitrohb demo shows a heartbeat on any machine.",
        ),
    ],
    ids=lambda value: str(value).partition("\n")[0] if isinstance(value, Exception) else "",
)
def test_messages(error: UnusableAddressError, text: str) -> None:
    assert str(error) == text


def test_current_directory_that_has_been_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert str(listen_error(UnixAddress("x"), errno.ENOENT)) == (
        "cannot listen on unix:x: the current directory has been removed (ENOENT)\n"
        "Change to one that exists."
    )


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENXIO, "No such device or address (ENXIO)"),
        (9999, "Unknown error 9999 (unknown)"),
    ],
)
@pytest.mark.parametrize("address", [VSOCK[0], UNIX[0], FD], ids=str)
def test_an_error_that_nobody_has_met_yet(address: Address, number: int, reason: str) -> None:
    error = listen_error(address, number)
    assert (error.errno, error.reason) == (number, reason)
    assert error.remedy == (
        "No remedy is known for this error. What this machine lacks: nitrohb doctor"
    )


def test_a_socket_file_of_somebody_else(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    assert "may not be created" in listen_error(address, errno.EACCES).reason
    (tmp_path / "s").touch()
    assert "is there that this user may not replace" in listen_error(address, errno.EACCES).reason


def test_a_directory_that_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    assert "--socket-mode" in connect_error(address, errno.EACCES).remedy

    def access(path: str, mode: int) -> bool:
        return (path, mode) != (str(tmp_path), os.X_OK)

    monkeypatch.setattr(os, "access", access)
    error = connect_error(address, errno.EACCES)
    assert error.reason == f"this user may not enter {tmp_path} (EACCES)"
    assert "--socket-mode" not in error.remedy


def test_who_has_asked_the_doctor_is_not_sent_there() -> None:
    """Else a doctor's every second line would name it."""
    sent = 0
    for address in (*VSOCK, *UNIX, FD):
        for number in ERRNOS:
            remedy = listen_error(address, number).remedy
            sent += "nitrohb doctor" in remedy
            short = without_doctor(remedy)
            assert "nitrohb doctor" not in short
            assert remedy.startswith(short)
            assert short.endswith((".", ")", shlex.quote(str(address)))) or "mkdir -p" in short
    assert sent


@pytest.mark.parametrize(
    ("number", "reason", "remedy"),
    [
        (errno.EAGAIN, "this user, or this container, may have no more processes", "ulimit -u"),
        (errno.EMFILE, "this process has too many open files", "ulimit -n"),
        (errno.E2BIG, "Argument list too long", "nitrohb doctor"),
    ],
)
def test_a_command_that_cannot_be_started(number: int, reason: str, remedy: str) -> None:
    """tests/cli/test_run.py has those that can be provoked."""
    said = start_advice("launch", number)
    assert said[0] == f"{reason} ({errno.errorcode[number]})"
    assert remedy in said[1]


@pytest.mark.parametrize(
    ("command", "number", "reason", "remedy"),
    [
        ("", errno.EACCES, "its name is empty (EACCES)", "after --"),
        ("here", errno.ENOENT, "there is no such command in PATH (ENOENT)", "write ./here"),
        ("so so", errno.ENOENT, "there is no such command in PATH (ENOENT)", "write ./'so so'"),
        ("nowhere", errno.ENOENT, "there is no such command (ENOENT)", "its whole path"),
        ("./here", errno.ENOENT, "the interpreter that its first line (#!) names does", "Install"),
        ("./here", errno.EACCES, "this user may not run it (EACCES)", "chmod +x"),
        ("./dir", errno.EACCES, "it is a directory (EACCES)", "in it"),
    ],
)
def test_what_a_look_tells_of_a_command_that_cannot_be_started(
    command: str,
    number: int,
    reason: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("here", "so so"):
        Path(name).touch()
    Path("dir").mkdir()
    said = start_advice(command, number)
    assert said[0].startswith(reason)
    assert remedy in said[1]


def advised(make: Make, address: Address) -> set[str]:
    """The errors for which there is more than the system's own text."""
    return {
        errno.errorcode.get(number, "no AF_VSOCK")
        for number in ERRNOS
        if "No remedy is known" not in make(address, number).remedy
    }


def test_the_rows() -> None:
    """Every case of the documentation has its advice."""
    files = {"EMFILE", "ENFILE"}
    vsock = files | {"no AF_VSOCK", "EAFNOSUPPORT", "EPERM", "EACCES"}
    passed_in = {"ENOTSOCK", "ESHUTDOWN"}  # by the name of where it is bound
    assert advised(listen_error, VSOCK[2]) == vsock | passed_in | {"EADDRNOTAVAIL", "EADDRINUSE"}
    assert advised(connect_error, VSOCK[2]) == vsock | {"ECONNRESET", "ENODEV", "ETIMEDOUT"}
    unix = files | {"ENOENT", "ENOTDIR", "EACCES", "EPERM", "EROFS", "EADDRINUSE", "EEXIST"}
    unix |= {"EAGAIN"}
    assert advised(listen_error, UNIX[0]) == unix | passed_in
    assert advised(listen_error, UNIX[2]) == unix
    assert advised(connect_error, UNIX[0]) == unix | {"ECONNREFUSED", "EPROTOTYPE"}
    inherited = passed_in | {"EBADF", "EINVAL", "EPROTOTYPE", "EAFNOSUPPORT"}
    assert advised(listen_error, FD) == files | inherited


@pytest.mark.parametrize(
    "error",
    [listen_error(FD, errno.EBADF), connect_error(VSOCK[2], errno.ENODEV)],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_cross_a_process_boundary(error: UnusableAddressError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert (twin.address, twin.errno) == (error.address, error.errno)


def test_no_af_vsock_is_no_errno() -> None:
    assert NO_AF_VSOCK not in errno.errorcode
    assert set(remedies.__all__) == {
        "LOOPBACK_CID",
        "NO_AF_VSOCK",
        "SAME_CIDS",
        "api_connect_error",
        "connect_error",
        "is_lack_of_threads",
        "lack_error",
        "listen_error",
        "remedy_for",
        "start_advice",
        "tcp_listen_error",
        "vsock_advice",
        "without_doctor",
    }
