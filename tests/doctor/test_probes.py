# SPDX-License-Identifier: Apache-2.0
"""The probes on this machine, and on machines that are made of files."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nitrohb.addresses import PORT_ANY
from nitrohb.doctor import probes
from nitrohb.doctor.probes import Enclaves, enclaves, holder_of_path, suspects_of_port
from nitrohb.remedies import NO_AF_VSOCK
from nitrohb.sockets import vsock as device_of_vsock
from tests.support import child


def test_the_kernel_is_asked_for_af_vsock() -> None:
    assert probes.bind_errno(77) in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPERM}


def refuse(*_: object) -> socket.socket:
    raise OSError(errno.EAFNOSUPPORT, "no")


def test_a_python_or_a_kernel_without_af_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", refuse)
    for family, number in ((None, NO_AF_VSOCK), (40, errno.EAFNOSUPPORT)):
        monkeypatch.setattr(probes, "AF_VSOCK", family)
        assert probes.bind_errno(1) == number


class Bindable:
    """A socket that binds to any address."""

    def __init__(self, *_: object) -> None:
        self.bound: object = None

    def __enter__(self) -> "Bindable":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.bound == (1, PORT_ANY)

    def bind(self, address: object) -> None:
        self.bound = address


def test_a_machine_has_a_cid_if_a_socket_can_be_bound_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "AF_VSOCK", 40)
    monkeypatch.setattr(socket, "socket", Bindable)
    assert probes.bind_errno(1) == 0


def test_another_device_has_no_cid() -> None:
    with pytest.raises(OSError, match="ioctl") as no:
        device_of_vsock.read_local_cid("/dev/null")
    assert no.value.errno == errno.ENOTTY


def test_a_device_of_enclaves_that_is_missing_is_explained_by_its_pci_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, devices = tmp_path / "nitro_enclaves", tmp_path / "bus/pci/devices"

    def look() -> Enclaves:
        return enclaves(str(device), str(tmp_path))

    assert look() is Enclaves.UNKNOWN
    (tmp_path / "bus").mkdir()
    assert look() is Enclaves.DISABLED
    for name, modalias in (
        ("0", "pci:v00001AF4d00001045sv00001AF4sd00001045bc"),
        ("1", None),
        ("2", "pci:v00001D0Fd0000E4C1sv00000000sd00000000bc"),
    ):
        if name == "2":
            assert look() is Enclaves.DISABLED
        (devices / name).mkdir(parents=True)
        if modalias is not None:
            (devices / name / "modalias").write_text(f"{modalias}\n")
    assert look() is Enclaves.NO_DRIVER
    (devices / "2/driver").mkdir()
    assert look() is Enclaves.OUTSIDE
    device.touch()
    assert look() is Enclaves.STARTABLE
    monkeypatch.setattr(os, "access", lambda *_: False)  # pyright: ignore
    assert look() is Enclaves.REFUSED


def test_the_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, seen in ((1024, 1024), (resource.RLIM_INFINITY, float("inf"))):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (512, limit))  # pyright: ignore
        assert probes.descriptor_limit() == seen


# Which process holds an address, in the real /proc and in others.

HOLD = """
import socket, sys
socks = [socket.socket(socket.AF_UNIX) for _ in sys.argv[1:]]
for sock, path in zip(socks, sys.argv[1:]):
    sock.bind(path)
for sock in socks[:-1]:
    sock.listen()
print(flush=True)
sys.stdin.read()
"""
PATHS = ["listening", "with a space", "with [brackets] and é", "bound"]


@contextmanager
def holding(paths: list[str]) -> Generator[int]:
    """Another process that is bound to some paths. Yields its number."""
    command = [sys.executable, "-c", HOLD, *paths]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid


def test_the_holder_of_a_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [str(tmp_path / name) for name in PATHS]
    assert {holder_of_path(path) for path in paths} == {None}
    with holding(paths) as pid:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        for path in (*paths, *PATHS):  # absolute or not, whatever it was bound to
            assert holder_of_path(path) == f"held by process {pid} ({comm})", path
        table = Path("/proc/net/unix").read_bytes()
    assert {holder_of_path(path) for path in paths} == {None}
    # If the processes of other users are hidden, as by the mount option hidepid of /proc.
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "net" / "unix").write_bytes(table)
    (tmp_path / "proc" / "1").mkdir()
    hidden = holder_of_path(paths[0], str(tmp_path / "proc"))
    assert hidden == "held by a process that this user cannot see"
    assert holder_of_path(paths[0], str(tmp_path / "nothing")) is None


TABLE = """
00000000: 00000002 00000000 00010000 0001 01 11 /s
00000000: 00000003 00000000 00000000 0001 03 12 /s
00000000: 00000003 00000000 00000000 0001 03 13 /accepted
"""


def fake_process(proc: Path, pid: int, inode: int, comm: str | None = "x\n") -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    for fd in (3, 4):  # the same socket twice
        (proc / str(pid) / "fd" / str(fd)).symlink_to(f"socket:[{inode}]")
    (proc / str(pid) / "fd" / "5").write_text("no link")
    if comm is not None:
        (proc / str(pid) / "comm").write_text(comm)


def test_a_connection_does_not_hold_the_path_of_its_listener(tmp_path: Path) -> None:
    for pid, inode in ((9000101, 11), (9000102, 12), (9000103, 13), (os.getpid(), 11)):
        fake_process(tmp_path, pid, inode)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "unix").write_text(TABLE)
    assert holder_of_path("/s", str(tmp_path)) == "held by process 9000101 (x)"
    assert holder_of_path("/accepted", str(tmp_path)) is None


def test_processes_with_af_vsock_sockets_are_suspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def protocol(fd: str, name: str) -> bytes:
        assert name == "system.sockprotoname"
        if "/9000102/" in fd:
            raise PermissionError
        return b"UNIX\0" if "/9000101/" in fd else b"AF_VSOCK\0"

    monkeypatch.setattr(os, "getxattr", protocol)
    fake_process(tmp_path, os.getpid(), 1)
    for pid in (9000101, 9000102):
        fake_process(tmp_path, pid, pid)
    assert "not visible from here" in suspects_of_port(str(tmp_path))
    assert "all containers" in suspects_of_port(str(tmp_path))
    fake_process(tmp_path, 9000103, 9000103, "its \x1b[31mchild\n")
    one = "process 9000103 (its ?[31mchild)"
    found = suspects_of_port(str(tmp_path))
    assert found == f"probably held by {one}, which has AF_VSOCK sockets open"
    fake_process(tmp_path, 9000104, 9000104, None)
    named = suspects_of_port(str(tmp_path)).removeprefix("probably held by ")
    named = named.removesuffix(", which have AF_VSOCK sockets open")
    assert sorted(named.split(" or ")) == [one, "process 9000104"]


def test_a_search_ends_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getxattr", lambda *_: b"AF_VSOCK\0")  # pyright: ignore
    fake_process(tmp_path, 9000101, 9000101)
    assert "9000101" in suspects_of_port(str(tmp_path))
    monkeypatch.setattr(probes, "_SEARCH_DEADLINE", -1)
    assert "9000101" not in suspects_of_port(str(tmp_path))


def test_the_kernel_names_the_protocol_of_a_socket() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        name = os.getxattr(f"/proc/self/fd/{sock.fileno()}", "system.sockprotoname")
    assert name.rstrip(b"\0") in {b"UNIX", b"UNIX-STREAM"}
