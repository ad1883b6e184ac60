# SPDX-License-Identifier: Apache-2.0
"""What a person reads when an address, or a command, cannot be used."""

import copy
import errno
import os
import pickle
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    ("make", "doing", "addresses"),
    [
        (listen_error, "cannot listen on", [*VSOCK, *UNIX, FD]),
        (connect_error, "cannot connect to", [*VSOCK, *UNIX]),
    ],
)
def test_an_error_says_what_is_wrong_and_what_helps(
    make: Make, doing: str, addresses: list[Address]
) -> None:
    """Each in one line, whatever the error is."""
    for address in addresses:
        for number in ERRNOS:
            error, case = make(address, number), f"{address}, errno {number}"
            assert str(error) == f"{doing} {address}: {error.reason}\n{error.remedy}", case
            assert error.reason, case
            assert error.remedy, case
            assert len(str(error).splitlines()) == 2, case
            assert error.address == str(address), case
            assert error.errno == (None if number == NO_AF_VSOCK else number), case
            if number in errno.errorcode:
                assert error.reason.endswith(f" ({errno.errorcode[number]})"), case
            if number not in errno.errorcode and number != NO_AF_VSOCK:
                assert error.reason == f"{os.strerror(number)} (unknown)", case
            assert "{" not in str(error).replace("/run/{x}.sock", ""), case


@pytest.mark.parametrize(
    ("error", "in_reason", "in_remedy"),
    [
        (listen_error(VSOCK[1], errno.EADDRNOTAVAIL), "loopback", "modprobe vsock_loopback"),
        (listen_error(VSOCK[1], errno.EADDRNOTAVAIL), "CID 1", "vsock::9000"),
        (listen_error(VSOCK[2], errno.EADDRNOTAVAIL), "CID 3", "local CID, or write vsock::9000"),
        (listen_error(VSOCK[2], errno.EADDRNOTAVAIL, 7), "CID 3", "local CID, 7, or write"),
        (listen_error(VSOCK[2], errno.EADDRINUSE), "port 9000", "doctor -l vsock:3:9000"),
        (listen_error(VsockAddress(5, 1023), errno.EACCES), "1024", "CAP_NET_BIND_SERVICE"),
        (listen_error(VsockAddress(5, 1024), errno.EACCES), "SELinux", "policy"),
        (listen_error(VSOCK[2], errno.EPERM), "seccomp", "fd:N"),
        (listen_error(VSOCK[2], NO_AF_VSOCK), "AF_VSOCK", "another Python"),
        (connect_error(VSOCK[2], NO_AF_VSOCK), "AF_VSOCK", "another Python"),
        (connect_error(VSOCK[2], errno.EAFNOSUPPORT), "AF_VSOCK", "modprobe vsock"),
        (connect_error(VSOCK[2], errno.EPERM), "seccomp", "Allow AF_VSOCK"),
        (connect_error(VSOCK[2], errno.EMFILE), "too many open files", "ulimit -n"),
        (connect_error(VSOCK[2], errno.ENFILE), "the system", "fs.file-max"),
        (connect_error(VSOCK[2], errno.ECONNRESET), "port 9000", "nitrohb serve -l vsock::9000"),
        (connect_error(VSOCK[2], errno.ENODEV), "CID 3", "as 3"),
        (connect_error(VSOCK[2], errno.ETIMEDOUT), "CID 3", "running"),
        (listen_error(FD, errno.EBADF), "descriptor 3", "fd:3"),
        (listen_error(FD, errno.EINVAL), "does not listen", "listen()"),
        (listen_error(UNIX[2], errno.EEXIST), "/tmp/vm4_9000 exists", "Move it away"),
        (connect_error(UNIX[2], errno.ENOENT), "/tmp/vm4_9000", "serve -l hybrid:/tmp/vm4:9000"),
        (connect_error(UNIX[1], errno.EACCES), "this user", "--socket-mode"),
        (connect_error(UNIX[1], errno.EAGAIN), "too many connections", "accept"),
    ],
)
def test_what_an_error_number_tells(
    error: UnusableAddressError, in_reason: str, in_remedy: str
) -> None:
    assert in_reason in error.reason
    assert in_remedy in error.remedy


@pytest.mark.parametrize(
    ("make", "path", "number", "in_reason", "in_remedy"),
    [
        (listen_error, "no such/{x}", errno.ENOENT, "no such does not", "mkdir -p 'no such'"),
        (listen_error, "/proc/x", errno.ENOENT, "/proc takes no socket files", "directory"),
        (listen_error, "~/x", errno.ENOENT, "~/x", "$HOME"),
        (connect_error, "~/x", errno.ENOENT, "~/x", "$HOME"),
        (listen_error, "/proc", errno.EEXIST, "/proc is a directory", "in it"),
        (listen_error, "file", errno.EEXIST, "file exists and is not", "Move it away"),
        (listen_error, "x", errno.EROFS, ". is on a read-only file system", "directory"),
        (listen_error, "x", errno.EACCES, "may not be created", "directory"),
        (listen_error, "file", errno.EACCES, "this user may not replace", "owner"),
        (connect_error, "file", errno.ECONNREFUSED, "file is not a socket", "socket"),
        (connect_error, "x", errno.ECONNREFUSED, "nobody listens", "nitrohb serve -l unix:x"),
        (connect_error, "no such/x", errno.ENOENT, "no such/x does not", "-l 'unix:no such/x'"),
    ],
)
def test_what_a_look_at_a_path_tells(
    make: Make,
    path: str,
    number: int,
    in_reason: str,
    in_remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    error = make(UnixAddress(path), number)
    assert in_reason in error.reason
    assert in_remedy in error.remedy


def test_a_current_directory_that_has_been_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "current directory" in listen_error(UnixAddress("x"), errno.ENOENT).reason


def test_a_directory_that_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def access(path: str, mode: int) -> bool:
        return (path, mode) != (str(tmp_path), os.X_OK)

    monkeypatch.setattr(os, "access", access)
    error = connect_error(UnixAddress(str(tmp_path / "s")), errno.EACCES)
    assert error.reason == f"this user may not enter {tmp_path} (EACCES)"
    assert "--socket-mode" not in error.remedy


def test_a_remedy_that_the_doctor_tells_does_not_name_the_doctor() -> None:
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
    ("command", "number", "reason", "remedy"),
    [
        ("launch", errno.EAGAIN, "no more processes", "ulimit -u"),
        ("launch", errno.EMFILE, "this process has too many open files", "ulimit -n"),
        ("launch", errno.E2BIG, "Argument list too long", "nitrohb doctor"),
        ("", errno.EACCES, "its name is empty", "after --"),
        ("", errno.ENOENT, "its name is empty", "after --"),
        ("here", errno.ENOENT, "in PATH", "write ./here"),
        ("so so", errno.ENOENT, "in PATH", "write ./'so so'"),
        ("nowhere", errno.ENOENT, "there is no such command (", "its whole path"),
        ("./here", errno.ENOENT, "the interpreter", "Install"),
        ("./here", errno.EACCES, "this user may not run it", "chmod +x"),
        ("./dir", errno.EACCES, "it is a directory", "in it"),
    ],
)
def test_a_command_that_cannot_be_started(
    command: str,
    number: int,
    reason: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """tests/cli/test_run.py has those that can be provoked."""
    monkeypatch.chdir(tmp_path)
    for name in ("here", "so so"):
        Path(name).touch()
    Path("dir").mkdir()
    said = start_advice(command, number)
    assert reason in said[0]
    assert said[0].endswith(f"({errno.errorcode[number]})")
    assert remedy in said[1]


def advised(make: Make, address: Address) -> set[str]:
    """The errors for which there is more than the system's own text."""
    return {
        errno.errorcode.get(number, "no AF_VSOCK")
        for number in ERRNOS
        if "No remedy is known" not in make(address, number).remedy
    }


def test_every_case_of_the_documentation_has_its_advice() -> None:
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


def test_errors_can_cross_a_process_boundary() -> None:
    for error in (listen_error(FD, errno.EBADF), connect_error(VSOCK[2], errno.ENODEV)):
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(twin) is type(error)
            assert str(twin) == str(error)
            assert (twin.address, twin.errno) == (error.address, error.errno)


def test_no_af_vsock_is_no_errno() -> None:
    assert NO_AF_VSOCK not in errno.errorcode
