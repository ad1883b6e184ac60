# SPDX-License-Identifier: Apache-2.0
"""Reasons and remedies of addresses that cannot be used."""

import copy
import errno
import itertools
import os
import pickle
import tempfile
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
    descriptor_shortage,
    listen_error,
    vsock_advice,
    who_may_connect,
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


def test_an_error_has_a_reason_and_a_remedy() -> None:
    """Each is one line, for every error number."""
    makers: tuple[tuple[Make, str, list[Address]], ...] = (
        (listen_error, "cannot listen on", [*VSOCK, *UNIX, FD]),
        (connect_error, "cannot connect to", [*VSOCK, *UNIX]),
    )
    for make, doing, addresses in makers:
        for address, number in itertools.product(addresses, ERRNOS):
            error, case = make(address, number), f"{address}, errno {number}"
            first, second = str(error).splitlines()
            assert first == f"{doing} {address}: {error.reason}", case
            assert second == f"{error.remedy} {error.see_also}".strip(), case
            assert error.reason, case
            assert error.remedy, case
            assert "nitrohb doctor" not in error.remedy, case
            assert error.address == str(address), case
            assert error.errno == (None if number == NO_AF_VSOCK else number), case
            if number != NO_AF_VSOCK:
                name = errno.errorcode.get(number, "unknown")
                assert error.reason.endswith(f" ({name})"), case
            assert "{" not in str(error).replace("/run/{x}.sock", ""), case


def test_the_facts_of_an_error() -> None:
    low, high = VsockAddress(5, 1023), VsockAddress(5, 1024)
    for error, in_reason, in_remedy in (
        (listen_error(VSOCK[1], errno.EADDRNOTAVAIL), "loopback", "modprobe vsock_loopback"),
        (listen_error(VSOCK[1], errno.EADDRNOTAVAIL), "CID 1", "vsock::9000"),
        (listen_error(VSOCK[2], errno.EADDRNOTAVAIL), "CID 3", "local CID, or write vsock::9000"),
        (listen_error(VSOCK[2], errno.EADDRNOTAVAIL, 7), "CID 3", "local CID, 7, or write"),
        (listen_error(VSOCK[2], errno.EADDRINUSE), "port 9000", "ss --vsock -lp"),
        (listen_error(low, errno.EACCES), "1024", "CAP_NET_BIND_SERVICE"),
        (listen_error(high, errno.EACCES), "SELinux", "policy"),
        (listen_error(VSOCK[2], errno.EPERM), "seccomp", "fd:N"),
        (listen_error(VSOCK[2], NO_AF_VSOCK), "AF_VSOCK", "another Python"),
        (connect_error(VSOCK[2], NO_AF_VSOCK), "AF_VSOCK", "another Python"),
        (connect_error(VSOCK[2], errno.EAFNOSUPPORT), "AF_VSOCK", "modprobe vsock"),
        (connect_error(VSOCK[2], errno.EMFILE), "too many open files", "ulimit -n"),
        (connect_error(VSOCK[2], errno.ENFILE), "the system", "fs.file-max"),
        (connect_error(VSOCK[2], errno.ECONNRESET), "port 9000", "nitrohb serve -l vsock::9000"),
        (connect_error(VSOCK[2], errno.ENODEV), "CID 3", "as 3"),
        (connect_error(VSOCK[1], errno.ENODEV), "the loopback", "modprobe vsock_loopback"),
        (connect_error(VSOCK[1], errno.ETIMEDOUT), "the loopback", "modprobe vsock_loopback"),
        (connect_error(VSOCK[1], errno.ECONNRESET), "CID 1", "nitrohb serve -l vsock::9000"),
        (connect_error(VSOCK[2], errno.ETIMEDOUT), "CID 3", "running"),
        (listen_error(FD, errno.EBADF), "descriptor 3", "fd:3"),
        (listen_error(FD, errno.EINVAL), "does not listen", "listen()"),
        (listen_error(UNIX[2], errno.EEXIST), "/tmp/vm4_9000 exists", "Move it away"),
        (connect_error(UNIX[2], errno.ENOENT), "/tmp/vm4_9000", "serve -l hybrid:/tmp/vm4:9000"),
        (connect_error(UNIX[1], errno.EACCES), "this user", "--socket-mode"),
        (connect_error(UNIX[1], errno.EAGAIN), "too many connections", "accept"),
    ):
        assert in_reason in error.reason
        assert in_remedy in error.remedy


def test_a_taken_address_refers_to_the_doctor() -> None:
    for address, quoted in ((VSOCK[2], "vsock:3:9000"), (UnixAddress("a b"), "'unix:a b'")):
        see_also = listen_error(address, errno.EADDRINUSE).see_also
        assert see_also.endswith(f"nitrohb doctor -l {quoted}")


def test_af_vsock_as_a_whole() -> None:
    reason, remedy = vsock_advice(errno.EMFILE)
    assert str(descriptor_shortage(errno.EMFILE)).endswith(f": {reason}\n{remedy}")
    assert descriptor_shortage(errno.EPERM) is None


def test_the_facts_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    cases: tuple[tuple[Make, str, int, str, str], ...] = (
        (listen_error, "no such/{x}", errno.ENOENT, "no such does not", "mkdir -p 'no such'"),
        (listen_error, "/proc/x", errno.ENOENT, "/proc", "/tmp"),
        (listen_error, "~/x", errno.ENOENT, "~/x", "$HOME"),
        (connect_error, "~/x", errno.ENOENT, "~/x", "$HOME"),
        (listen_error, "/proc", errno.EEXIST, "/proc is a directory", "in it"),
        (listen_error, "file", errno.EEXIST, "file exists and is not", "Move it away"),
        (listen_error, "x", errno.EROFS, ". is on a read-only file system", "directory"),
        (listen_error, "x", errno.EACCES, "create", "directory"),
        (listen_error, "file", errno.EACCES, "replace", "owner"),
        (connect_error, "file", errno.ECONNREFUSED, "file is not a socket", "socket"),
        (connect_error, "x", errno.ECONNREFUSED, "nobody listens", "nitrohb serve -l unix:x"),
        (connect_error, "no such/x", errno.ENOENT, "no such/x does not", "-l 'unix:no such/x'"),
    )
    for make, path, number, in_reason, in_remedy in cases:
        error = make(UnixAddress(path), number)
        assert in_reason in error.reason
        assert in_remedy in error.remedy


def test_a_directory_that_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def access(path: str, mode: int) -> bool:
        return (path, mode) != (str(tmp_path), os.X_OK)

    monkeypatch.setattr(os, "access", access)
    error = connect_error(UnixAddress(str(tmp_path / "s")), errno.EACCES)
    assert str(tmp_path) in error.reason
    assert "--socket-mode" not in error.remedy


def test_who_may_connect_to_a_socket_file() -> None:
    """Directories that belong to the owner of the file count, too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as outer:
        inner, path = f"{outer}/inner", f"{outer}/inner/s"
        os.mkdir(inner)
        Path(path).touch()
        for modes, closed, remedy in (
            ((0o711, 0o711, 0o600), None, "--socket-mode 660 --socket-group GROUP"),
            ((0o711, 0o710, 0o620), None, None),
            ((0o711, 0o711, 0o666), None, None),
            ((0o711, 0o700, 0o660), inner, "chmod g+x"),
            ((0o766, 0o755, 0o660), outer, "chmod g+x"),
        ):
            for name, wanted in zip((outer, inner, path), modes, strict=True):
                os.chmod(name, wanted)
            seen, advice = who_may_connect(path)
            mode = f"{path} has mode {modes[-1]:o}, owner {os.getuid()} and group {os.getgid()}"
            assert seen == mode + (f", but only its owner can enter {closed}" if closed else "")
            assert (advice is None) if remedy is None else (remedy in (advice or ""))


def advised(make: Make, address: Address) -> set[str]:
    """The errors that have a row."""
    return {
        errno.errorcode.get(number, "no AF_VSOCK")
        for number in ERRNOS
        if "errno(3)" not in make(address, number).remedy
    }


def test_the_errors_that_have_a_row() -> None:
    files = {"EMFILE", "ENFILE"}
    vsock = files | {"no AF_VSOCK", "EAFNOSUPPORT", "EPERM", "EACCES"}
    passed_in = {"ENOTSOCK", "ESHUTDOWN"}  # a socket is named by the address to which it is bound
    assert advised(listen_error, VSOCK[2]) == vsock | passed_in | {"EADDRNOTAVAIL", "EADDRINUSE"}
    assert advised(connect_error, VSOCK[2]) == vsock | {"ECONNRESET", "ENODEV", "ETIMEDOUT"}
    unix = passed_in | {"ENOENT", "ENOTDIR", "EACCES", "EPERM", "EROFS", "EADDRINUSE", "EEXIST"}
    for address in UNIX:
        assert advised(listen_error, address) == files | unix | {"EAGAIN"}
        there = {"ENOENT", "ENOTDIR", "EACCES", "ECONNREFUSED", "EPROTOTYPE", "EAGAIN"}
        assert advised(connect_error, address) == files | there
    inherited = passed_in | {"EBADF", "EINVAL", "EPROTOTYPE", "EAFNOSUPPORT"}
    assert advised(listen_error, FD) == files | inherited


def test_errors_can_cross_a_process_boundary() -> None:
    for error in (listen_error(FD, errno.EBADF), connect_error(VSOCK[2], errno.ENODEV)):
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(twin) is type(error)
            assert str(twin) == str(error)
            assert (twin.address, twin.errno) == (error.address, error.errno)
            assert twin.see_also == error.see_also


def test_no_af_vsock_is_no_errno() -> None:
    assert NO_AF_VSOCK not in errno.errorcode
