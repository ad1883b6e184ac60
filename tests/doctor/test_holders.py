# SPDX-License-Identifier: Apache-2.0
"""Who holds an address: real processes, and datagrams as a kernel may never send them."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nitrohb.addresses import CID_ANY, PORT_ANY
from nitrohb.doctor import holders
from nitrohb.doctor.holders import Bound, holder_of_path, holder_of_port, parse_diag
from tests.support import child

HOLD = """
import socket, sys
socks = [socket.socket(socket.AF_UNIX) for _ in sys.argv[1:]]
for sock, path in zip(socks, sys.argv[1:]):
    sock.bind(path)
for sock in socks[:-2]:
    sock.listen()
socks[-1].connect(sys.argv[1])
print(flush=True)
sys.stdin.read()
"""
NAMES = ["listening", "with a space", "with [brackets] and é", "bound", "connected"]


@contextmanager
def holding(paths: list[str]) -> Generator[int]:
    """Another process that is bound to some paths; yields its number."""
    command = [sys.executable, "-c", HOLD, *paths]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid


def test_the_holder_of_a_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [str(tmp_path / name) for name in NAMES]
    assert {holder_of_path(path) for path in paths} == {None}
    with holding(paths) as pid:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
        for path in (*paths, *NAMES):  # absolute or not, whatever it was bound to
            assert holder_of_path(path) == f"held by process {pid} ({comm})", path
        table = Path("/proc/net/unix").read_bytes()
    assert {holder_of_path(path) for path in paths} == {None}
    # Where other users' processes are hidden, as by hidepid of a mount of /proc.
    (tmp_path / "proc" / "net").mkdir(parents=True)
    (tmp_path / "proc" / "net" / "unix").write_bytes(table)
    (tmp_path / "proc" / "1").mkdir()
    hidden = holder_of_path(paths[0], str(tmp_path / "proc"))
    assert hidden == "held by a process that this user cannot see"
    assert holder_of_path(paths[0], str(tmp_path / "nothing")) is None


LISTENER = "00000000: 00000002 00000000 00010000 0001 01 11 /s\n"
BOUND = "00000000: 00000002 00000000 00000000 0001 01 12 /s\n"
ACCEPTED = "00000000: 00000003 00000000 00000000 0001 03 13 /s\n"


def test_of_all_that_have_a_path_the_one_that_takes_it_is_named(tmp_path: Path) -> None:
    for inode in (11, 12, 13):
        fake_process(tmp_path, 90 + inode, inode, "x\n")
    (tmp_path / "net").mkdir()
    for table, pid in (
        (ACCEPTED + BOUND + LISTENER, 101),
        (ACCEPTED + LISTENER, 101),
        (ACCEPTED + BOUND, 102),
        (ACCEPTED, 103),
    ):
        (tmp_path / "net" / "unix").write_text(table)
        assert holder_of_path("/s", str(tmp_path)) == f"held by process {pid} (x)"


def fake_process(proc: Path, pid: int, inode: int, comm: str | None) -> None:
    (proc / str(pid) / "fd").mkdir(parents=True)
    for fd in (3, 4):  # the same socket twice
        (proc / str(pid) / "fd" / str(fd)).symlink_to(f"socket:[{inode}]")
    (proc / str(pid) / "fd" / "5").write_text("no link")
    if comm is not None:
        (proc / str(pid) / "comm").write_text(comm)


def test_the_holders_of_a_port_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = [
        Bound(3, 9000, 10, has_peer=True),
        Bound(CID_ANY, 9000, 11, has_peer=False),
        Bound(CID_ANY, 9001, 12, has_peer=False),
        Bound(5, 9002, 13, has_peer=True),
    ]
    monkeypatch.setattr(holders, "bound_sockets", lambda: bound)
    fake_process(tmp_path, 100, 10, "accepted\n")
    fake_process(tmp_path, 101, 11, "listens\n")
    fake_process(tmp_path, 102, 11, "its \x1b[31mchild\n")
    fake_process(tmp_path, 103, 12, None)
    fake_process(tmp_path, 104, 13, "client\n")
    fake_process(tmp_path, os.getpid(), 11, "we\n")
    proc = str(tmp_path)
    named = (holder_of_port(9000, 3, proc) or "").removeprefix("held by ")
    assert sorted(named.split(" and ")) == ["process 101 (listens)", "process 102 (its ?[31mchild)"]
    assert holder_of_port(9001, CID_ANY, proc) == "held by process 103"
    assert holder_of_port(9002, 5, proc) == "held by process 104 (client)"
    assert holder_of_port(9002, 4, proc) is None
    assert holder_of_port(9003, CID_ANY, proc) is None


@pytest.mark.parametrize(
    ("pids", "has"), [((100,), "which has"), ((100, 103), "which have"), ((), "")], ids=len
)
def test_where_the_kernel_tells_nothing_processes_are_asked_for_their_sockets(
    pids: tuple[int, ...], has: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def protocol(fd: str, name: str) -> bytes:
        assert name == "system.sockprotoname"
        if "/101/" in fd:
            return b"UNIX\0"
        if "/102/" in fd:
            raise PermissionError
        return b"AF_VSOCK\0"

    monkeypatch.setattr(holders, "bound_sockets", list[Bound])
    monkeypatch.setattr(os, "getxattr", protocol)
    for pid in (101, 102, *pids):
        fake_process(tmp_path, pid, pid, "x\n")
    found = holder_of_port(9000, CID_ANY, str(tmp_path))
    if not pids:
        assert found is None
        return
    named = (found or "").removeprefix("probably held by ")
    named = named.removesuffix(f", {has} AF_VSOCK sockets open")
    assert sorted(named.split(" or ")) == [f"process {pid} (x)" for pid in pids]


def test_the_kernel_names_the_protocol_of_a_socket() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        name = os.getxattr(f"/proc/self/fd/{sock.fileno()}", "system.sockprotoname")
    assert name.rstrip(b"\0") in {b"UNIX", b"UNIX-STREAM"}


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def answer(bound: Bound) -> bytes:
    peer = 1024 if bound.has_peer else PORT_ANY
    body = struct.pack("=BBBBIIIII", 40, 1, 10, 0, bound.cid, bound.port, 7, peer, bound.inode)
    return message(20, body + bytes(8))


DONE = message(3, bytes(4))
u32 = st.integers(0, 0xFFFFFFFF)
sockets = st.lists(st.builds(Bound, u32, u32, u32, st.booleans()))


@given(sockets, st.booleans(), st.binary())
def test_sockets_are_read_up_to_the_end(found: list[Bound], ends: bool, after: bytes) -> None:
    data = b"".join(map(answer, found)) + (DONE + after if ends else b"")
    assert parse_diag(data) == (found, ends or not found)


@given(st.one_of(st.binary(), st.builds(message, st.integers(0, 40), st.binary())))
def test_no_datagram_is_a_failure(data: bytes) -> None:
    found, ended = parse_diag(data)
    assert found or ended


class Diag:
    """A kernel that answers in two datagrams, or never to the end."""

    def __init__(self, *datagrams: bytes) -> None:
        self.datagrams = [*datagrams]

    def __call__(self, *_: int) -> "Diag":
        return self

    def __enter__(self) -> "Diag":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def send(self, query: bytes) -> None:
        length, kind, flags, _, _ = struct.unpack_from("=IHHII", query)
        assert (length, kind, flags) == (len(query), 20, 0x301)
        assert query[16] == 40

    def recv(self, size: int) -> bytes:
        return self.datagrams.pop(0) if len(self.datagrams) > 1 else self.datagrams[0]


def test_all_datagrams_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Bound(CID_ANY, port, port, has_peer=False) for port in (1, 2))
    monkeypatch.setattr(socket, "socket", Diag(answer(one), answer(two), DONE))
    assert holders.bound_sockets() == [one, two]
    times = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(times)))
    monkeypatch.setattr(socket, "socket", Diag(answer(one)))  # never comes to an end
    assert holders.bound_sockets() == [one] * 2


def test_a_kernel_answers_or_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(bound.inode > 0 for bound in holders.bound_sockets())

    def refuse(*_: int) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr(socket, "socket", refuse)
    assert holders.bound_sockets() == []
