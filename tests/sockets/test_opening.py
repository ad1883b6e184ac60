# SPDX-License-Identifier: Apache-2.0
"""Listening sockets. Nearly all are real Unix sockets in a temporary directory."""

import errno
import fcntl
import gc
import itertools
import os
import pathlib
import socket
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import pytest

from nitrohb.addresses import (
    CID_ANY,
    PORT_ANY,
    HybridAddress,
    InheritedSocket,
    UnixAddress,
    VsockAddress,
    parse_address,
)
from nitrohb.errors import AddressError, ListenError, UsageError
from nitrohb.remedies import NO_AF_VSOCK
from nitrohb.sockets import listener, syscalls, vsock
from nitrohb.sockets.listener import Listener
from nitrohb.sockets.opening import (
    ListenTarget,
    check_distinct,
    open_listeners,
    require_allowable,
    resolve,
    where_bound,
)

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory. With relative paths, pytest cannot exceed 107 bytes."""
    monkeypatch.chdir(tmp_path)


@contextmanager
def listening(
    *listen: ListenTarget, mode: int = 0o600, group: int | None = None
) -> Generator[Listener]:
    """Listen. Yields the first listener, and closes all of them."""
    with ExitStack() as stack:
        opened = open_listeners(listen, socket_mode=mode, socket_group=group)
        for listener in opened:
            stack.enter_context(listener)
        yield opened[0]


def fails(*listen: ListenTarget, mode: int = 0o600, group: int | None = None) -> ListenError:
    """The error with which listening fails."""
    with pytest.raises(ListenError) as caught:
        open_listeners(listen, socket_mode=mode, socket_group=group)
    return caught.value


def bound(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(path)
    return sock


def server(path: str) -> socket.socket:
    sock = bound(path)
    sock.listen()
    sock.setblocking(False)
    return sock


def leave_dead_socket(path: str) -> None:
    server(path).close()


def connects(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(path) == 0


def inode(path: str) -> int:
    return os.lstat(path).st_ino


# --- listening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "file"),
    [("unix:a", "a"), ("hybrid:vm4:9000", "vm4_9000"), (HybridAddress("vm4", 90), "vm4_90")],
)
def test_listen_and_accept(address: str | HybridAddress, file: str) -> None:
    with listening(address) as listener:
        assert str(listener.address) == str(address)
        assert os.listdir() == [file]
        assert not listener.has_cids
        assert not listener.sock.getblocking()
        assert not listener.sock.get_inheritable()
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(file)
            fd, peer = listener.accept()
            with socket.socket(fileno=fd) as conn:
                assert peer is None
                assert not os.get_blocking(conn.fileno())
                client.send(b"\xb7")
                assert conn.recv(2) == b"\xb7"
    assert os.listdir() == []


def test_time_and_age_count_from_the_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    before = datetime.now(UTC)
    with listening("unix:a") as listener:
        assert before <= listener.time <= datetime.now(UTC)
        assert listener.time.tzinfo is UTC
        assert listener.age == 0.0
        now = 102.5
        assert listener.age == 2.5


def test_close_removes_only_its_own_file() -> None:
    with listening("unix:a") as listener:
        listener.close()
        assert os.listdir() == []
        assert listener.sock.fileno() == -1
        with server("a"):
            listener.close()
            assert connects("a"), "the second close() must not take the next server's file"
    os.unlink("a")
    with listening("unix:a") as listener:
        os.rename("a", "moved")
        with server("a"):
            listener.close()
            assert connects("a")


def test_a_file_that_is_gone_needs_no_removal() -> None:
    """A start script can delete the sockets of the last run of a VM at any time."""
    with listening("unix:a") as listener:
        os.unlink("a")
        listener.close()
        assert listener.sock.fileno() == -1
    sock = server("a")
    os.unlink("a")
    Listener(UnixAddress("a"), sock, path="a").close()
    assert sock.fileno() == -1


def test_a_file_that_cannot_be_removed_does_not_keep_the_socket_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server has dropped its privileges after it listened in a directory of root."""

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "not yours", path)

    with listening("unix:a") as listener:
        monkeypatch.setattr(os, "unlink", refuse)
        listener.close()
        assert listener.sock.fileno() == -1
        assert not connects("a")


# --- all or nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "number"),
    [("unix:no/such/directory", errno.ENOENT), ("fd:1048576", errno.EBADF), ("nonsense", None)],
)
def test_all_or_nothing_and_passed_sockets_are_closed(bad: str, number: int | None) -> None:
    sock, other = server("theirs"), server("other")
    listener = Listener(UnixAddress("other"), other, path="other")
    with pytest.raises(ListenError if number else AddressError) as caught:
        open_listeners([sock, "unix:a", listener, bad])
    if isinstance(caught.value, ListenError):
        assert (caught.value.address, caught.value.errno) == (bad, number)
    assert sock.fileno() == other.fileno() == -1
    assert os.listdir() == ["theirs"], "a listener has its file removed, a socket has not"


def test_a_malformed_address_stops_all_before_any_is_opened() -> None:
    with server("theirs"), pytest.raises(AddressError):
        open_listeners(["unix:theirs", "nonsense"])


@pytest.mark.parametrize(
    ("one", "other", "complaint"),
    [
        ("unix:a", UnixAddress("a"), "on unix:a: it is named twice"),
        ("hybrid:a:1", "hybrid:a:1", "on hybrid:a:1: it is named twice"),
        ("vsock::9000", VsockAddress(CID_ANY, 9000), "on vsock::9000: it is named twice"),
        ("fd:3", InheritedSocket(3), "on fd:3: it is named twice"),
        ("unix:a", "unix:./a", "on both unix:a and unix:./a: .*/a"),
        ("unix:deep/../a", "unix:a", "on both unix:deep/../a and unix:a: .*/a"),
        ("unix:link/a", "unix:deep/a", "on both unix:link/a and unix:deep/a: .*/deep/a"),
        ("hybrid:a:1", "unix:a_1", "on both hybrid:a:1 and unix:a_1: .*/a_1"),
        ("vsock::9000", "vsock:3:9000", "on both vsock::9000 and vsock:3:9000: .* every CID"),
        ("vsock:3:9000", "vsock::9000", "on both vsock:3:9000 and vsock::9000: .* every CID"),
    ],
)
def test_an_address_named_twice(one: ListenTarget, other: ListenTarget, complaint: str) -> None:
    os.mkdir("deep")
    os.symlink("deep", "link")
    for between in ([], ["unix:b", "hybrid:b:1", "vsock:3:9001"]):
        with pytest.raises(UsageError, match=f"^cannot listen {complaint}"):
            open_listeners([one, *between, other])
    assert sorted(os.listdir()) == ["deep", "link"]


def test_addresses_that_look_alike() -> None:
    os.mkdir("deep")
    check_distinct(
        map(parse_address, ["unix:a", "unix:deep/a", "hybrid:a:1", "unix:a_2", "fd:3", "fd:4"])
    )
    check_distinct(map(parse_address, ["vsock:1:9000", "vsock:3:9000", "vsock::9001"]))


def test_a_socket_named_twice() -> None:
    """Two owners of one descriptor would close it twice. The second time it can be another file."""
    for by_number in (True, False):
        with server("theirs") as sock:
            fd = sock.fileno()
            with pytest.raises(UsageError, match=f"^cannot listen on fd:{fd}: it is named twice"):
                open_listeners([sock, f"fd:{fd}" if by_number else sock])
            assert sock.fileno() == -1
        os.unlink("theirs")


def test_a_listener_is_passed_through_and_not_listened_on_again() -> None:
    with listening("unix:a") as listener:
        assert open_listeners([listener]) == [listener]
        assert connects("a")
        with pytest.raises(UsageError, match=r"^cannot listen on unix:a: it is named twice"):
            open_listeners([listener, "unix:a"])
        assert listener.sock.fileno() == -1


def test_targets_that_cannot_be_listened_on() -> None:
    sock = server("theirs")
    sock.close()
    with pytest.raises(UsageError, match=r"file descriptor .* got '-1'"):
        open_listeners([sock])
    address = VsockAddress(CID_ANY, PORT_ANY)
    with pytest.raises(UsageError, match=f"^{address} lets the kernel choose the port"):
        open_listeners([address])


# --- allow-lists --------------------------------------------------------------------------------


def test_the_peers_of_vsock_have_cids_and_those_of_a_unix_socket_have_uids() -> None:
    vsock, unix = ["vsock::9000", "vsock:3:9001"], ["unix:a", "hybrid:a:1"]
    require_allowable(resolve([*vsock, "fd:3"]), [16], None)
    require_allowable(resolve([*unix, "fd:3"]), None, [0])
    for cids, uids in ((None, None), ([16], [0])):
        require_allowable(resolve([*vsock, *unix]), cids, uids)
    for text in unix:
        with pytest.raises(
            UsageError, match=f"^cannot listen on {text}: peers of a Unix socket have no CID"
        ):
            require_allowable(resolve([*vsock, text]), [16], None)
    for text in vsock:
        with pytest.raises(
            UsageError, match=f"^cannot listen on {text}: peers on vsock have no uid"
        ):
            require_allowable(resolve([*unix, text]), None, [0])
    with listening(server("theirs")) as listener:
        require_allowable([listener.sock], [16], None)  # unknown as yet
        said = rf"^cannot listen on fd:{listener.sock.fileno()}: peers of a Unix socket"
        with pytest.raises(UsageError, match=said):
            require_allowable([listener], [16], None)
        require_allowable([listener], None, [0])


# --- socket files -------------------------------------------------------------------------------


def test_a_dead_socket_is_replaced() -> None:
    os.mkdir("deep")
    for path in ("a", "./a", "deep/a"):
        leave_dead_socket(path)
        with listening(f"unix:{path}"):
            assert connects(path)
        assert not os.path.lexists(path)


@pytest.mark.parametrize(
    "make",
    [
        server,
        bound,  # it may be about to listen
        partial(bound, kind=socket.SOCK_DGRAM),
        partial(bound, kind=socket.SOCK_SEQPACKET),
    ],
)
def test_a_live_socket_is_left_alone_and_does_not_even_notice(
    make: Callable[[str], socket.socket],
) -> None:
    with make("a") as theirs:
        before = inode("a")
        assert fails("unix:a").errno == errno.EADDRINUSE
        assert inode("a") == before
        if make is server:
            with pytest.raises(BlockingIOError):
                theirs.accept()
            assert connects("a")


@pytest.mark.parametrize(
    "make",
    [
        partial(os.mknod, mode=0o600),  # a file
        os.mkdir,
        os.mkfifo,
        partial(os.symlink, "nowhere"),
        partial(os.symlink, "dead"),
        partial(os.symlink, "live"),
    ],
)
def test_a_file_that_is_not_a_socket_is_left_alone(make: Callable[[str], object]) -> None:
    leave_dead_socket("dead")
    with server("live") as theirs:
        make("a")
        before = inode("a")
        error = fails("unix:a")
        assert error.errno == errno.EEXIST
        assert ("is a directory" in error.reason) is (make is os.mkdir)
        assert inode("a") == before
        with pytest.raises(BlockingIOError):
            theirs.accept()


def test_a_refused_probe_does_not_mean_a_dead_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket file belongs to another user, and this one may not write to it."""

    class Probe(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(errno.EACCES, "not yours")

    leave_dead_socket("a")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Probe)
        error = fails("unix:a")
    assert error.errno == errno.EACCES
    assert os.listdir() == ["a"]


@pytest.mark.parametrize("when", ["before it is looked at", "before it is asked"])
def test_the_owner_removes_its_socket_meanwhile(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = server("a")

    def their_end() -> None:
        if theirs.fileno() >= 0:
            theirs.close()
            os.unlink("a")

    lstat = os.lstat

    def meddling_lstat(path: str) -> os.stat_result:
        if when == "before it is looked at":
            their_end()
        status = lstat(path)
        their_end()
        return status

    monkeypatch.setattr(os, "lstat", meddling_lstat)
    with listening("unix:a"):
        assert theirs.fileno() == -1
        assert connects("a")


def test_a_socket_file_has_its_mode_and_is_never_open_to_others_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: set[int] = set()

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            assert isinstance(address, str)
            super().bind(address)
            seen.add(stat.S_IMODE(os.lstat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        for umask, mode in itertools.product((0, 0o022, 0o077), (0o600, 0o660, 0o666, 0o777)):
            os.umask(umask)
            with listening("unix:a", mode=mode):
                assert stat.S_IMODE(os.lstat("a").st_mode) == mode, f"umask {umask:o}"
    finally:
        os.umask(before)
    assert seen == {0o600}


def test_a_socket_file_has_the_group_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    chown = os.chown

    def watched_chown(path: str, uid: int, gid: int) -> None:
        if gid != os.getgid():
            raise PermissionError(errno.EPERM, "not a member")
        asked.append((uid, gid))
        chown(path, uid, gid)

    monkeypatch.setattr(os, "chown", watched_chown)
    with listening("unix:a", group=os.getgid()):
        assert os.lstat("a").st_gid == os.getgid()
        assert stat.S_IMODE(os.lstat("a").st_mode) == 0o600
    assert asked == [(-1, os.getgid())]
    error = fails("unix:a", group=os.getgid() + 1)
    assert error.errno == errno.EPERM
    assert "a group" in error.remedy
    assert os.listdir() == []


def make_link_to_file() -> None:
    pathlib.Path("victim").write_text("secret")
    os.chmod("victim", 0o600)
    os.link("victim", "a")


def make_symlink_to_socket() -> None:
    bound("victim").close()
    os.chmod("victim", 0o600)
    os.symlink("victim", "a")


@pytest.mark.parametrize(
    ("make", "number"),
    [
        (make_link_to_file, errno.EEXIST),
        (make_symlink_to_socket, errno.EEXIST),
        (lambda: None, errno.ENOENT),
    ],
)
def test_a_file_that_another_process_swaps_is_not_changed_or_removed(
    make: Callable[[], None], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of the directory must not be able to change the mode of another file."""
    os_open = os.open
    files: list[os.stat_result] = []

    def swap_and_open(path: str, flags: int) -> int:
        os.unlink(path)
        make()
        files.extend(map(os.lstat, sorted(os.listdir())))
        return os_open(path, flags)

    monkeypatch.setattr(os, "open", swap_and_open)
    assert fails("unix:a", mode=0o666).errno == number
    now = [os.lstat(name) for name in sorted(os.listdir())]
    assert [(file.st_ino, file.st_mode) for file in now] == [
        (file.st_ino, file.st_mode) for file in files
    ]


# --- the lock -----------------------------------------------------------------------------------


class Lock:
    """A lock of another process on the current directory, and the pauses of a wait for it."""

    def __init__(self) -> None:
        self.fd = os.open(".", os.O_RDONLY)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        self.naps: list[float] = []
        self.during: dict[int, Callable[[], None]] = {}  # what to do in a pause, by its number

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.during.get(len(self.naps), lambda: None)()

    def release(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)


@pytest.fixture
def lock(here: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lock]:
    lock = Lock()
    monkeypatch.setattr(time, "sleep", lock.sleep)
    yield lock
    os.close(lock.fd)


def test_a_lock_that_is_not_released(lock: Lock) -> None:
    leave_dead_socket("a")
    error = fails("unix:a")
    assert error.errno == errno.EWOULDBLOCK
    assert "locked .," in error.reason
    assert lock.naps == [0.01] * 99
    assert os.listdir() == ["a"]


def test_a_lock_that_is_released(lock: Lock) -> None:
    leave_dead_socket("a")
    lock.during[3] = lock.release
    with listening("unix:a"):
        assert connects("a")
        fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it has been released again
        assert os.listdir() == ["a"]
    assert lock.naps == [0.01] * 3


def test_the_holder_of_the_lock_has_replaced_the_socket(lock: Lock) -> None:
    leave_dead_socket("a")
    with ExitStack() as stack:

        def win() -> None:
            os.unlink("a")
            stack.enter_context(server("a"))
            lock.release()

        lock.during[1] = win
        assert fails("unix:a").errno == errno.EADDRINUSE
        assert connects("a")


def test_no_lock_if_nothing_has_to_be_replaced(lock: Lock) -> None:
    with listening("unix:a"):
        assert connects("a")
    assert lock.naps == []


def test_one_of_many_replaces_a_dead_socket() -> None:
    leave_dead_socket("a")
    start = threading.Barrier(8)

    def compete(_: int) -> Listener | int | None:
        start.wait(timeout=60)
        try:
            (listener,) = open_listeners(["unix:a"])
        except ListenError as error:
            return error.errno
        return listener

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(compete, range(8)))
    (winner,) = [result for result in results if isinstance(result, Listener)]
    with winner:
        assert results.count(errno.EADDRINUSE) == 7
        assert connects("a")


# --- inherited sockets --------------------------------------------------------------------------


@contextmanager
def inherited(sock: socket.socket) -> Generator[int]:
    """A descriptor from another program: open, without CLOEXEC, without a socket object."""
    fd = sock.detach()
    os.set_inheritable(fd, True)
    try:
        yield fd
    finally:
        with suppress(OSError):  # nitrohb can have closed it
            os.close(fd)


@pytest.mark.parametrize("by_number", [True, False])
def test_a_listening_socket_is_adopted(by_number: bool) -> None:
    theirs = server("theirs")
    theirs.setblocking(True)
    theirs.set_inheritable(True)
    with inherited(theirs) if by_number else nullcontext(theirs.fileno()) as fd:
        with listening(f"fd:{fd}" if by_number else theirs) as listener:
            assert listener.address == InheritedSocket(fd)
            assert listener.sock.fileno() == fd
            assert by_number or listener.sock is theirs
            assert not listener.has_cids
            assert not listener.sock.getblocking()
            assert not os.get_inheritable(fd), "a child would keep the address open"
            assert connects("theirs")
        assert listener.sock.fileno() == -1
    assert os.listdir() == ["theirs"], "the file is not ours to remove"


def tcp_server() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def connection() -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours


REFUSED: list[tuple[Callable[[], socket.socket], int]] = [
    (lambda: bound("theirs"), errno.EINVAL),
    (connection, errno.EINVAL),
    (lambda: bound("theirs", socket.SOCK_DGRAM), errno.EPROTOTYPE),
    (lambda: bound("theirs", socket.SOCK_SEQPACKET), errno.EPROTOTYPE),
    (tcp_server, errno.EAFNOSUPPORT),
]


@pytest.mark.parametrize(("make", "number"), REFUSED)
def test_a_socket_of_another_kind_is_refused(
    make: Callable[[], socket.socket], number: int
) -> None:
    with inherited(make()) as fd:
        error = fails(f"fd:{fd}")
        assert (error.address, error.errno) == (f"fd:{fd}", number)
        del error
        gc.collect()  # a remaining socket object would close it now
        assert os.get_inheritable(fd), "it is left as it was"
        assert os.get_blocking(fd)
    pathlib.Path("theirs").unlink(missing_ok=True)
    sock = make()
    assert fails(sock).errno == number
    assert sock.fileno() == -1


def test_a_descriptor_without_a_socket_or_of_an_unknown_family() -> None:
    with open("a", "wb") as file:
        assert fails(f"fd:{file.fileno()}").errno == errno.ENOTSOCK
        assert os.fstat(file.fileno())
    with socket.socket(99, socket.SOCK_STREAM, fileno=server("theirs").detach()) as strange:
        assert fails(strange).errno == errno.EAFNOSUPPORT


# --- AF_VSOCK, by scripted sockets --------------------------------------------------------------

AF_VSOCK = 40  # of linux/socket.h; not every Python has it


class Script:
    """The errors of the next sockets, and the calls on them."""

    def __init__(self) -> None:
        self.fails: dict[str, int] = {}  # errno, by call
        self.calls: list[object] = []

    def fail(self, call: str) -> None:
        if number := self.fails.get(call, 0):
            raise OSError(number, os.strerror(number))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """A scripted AF_VSOCK for any machine, built on Unix sockets."""
    script = Script()

    class Scripted(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            script.calls.append((family, kind))
            script.fail("socket")
            super().__init__(socket.AF_UNIX, kind)

        @property
        def family(self) -> int:  # type: ignore[override]
            return AF_VSOCK

        def bind(self, address: object) -> None:
            script.calls.append(address)
            script.fail("bind")
            super().bind(str(address))

        def _accept(self) -> tuple[int, tuple[int, int]]:
            with socket.socket(fileno=os.dup(self.fileno())) as plain:
                return plain.accept()[0].detach(), (16, 1234)

    monkeypatch.setattr(syscalls, "socket", SimpleNamespace(socket=Scripted, SOCK_STREAM=1))
    monkeypatch.setattr(syscalls, "AF_VSOCK", AF_VSOCK)
    monkeypatch.setattr(listener, "AF_VSOCK", AF_VSOCK)
    return script


@pytest.mark.parametrize(("text", "bound"), [("vsock:3:9000", 3), ("vsock::9000", 0xFFFFFFFF)])
def test_vsock(script: Script, text: str, bound: int) -> None:
    with listening(text) as listener:
        assert script.calls == [(AF_VSOCK, socket.SOCK_STREAM), (bound, 9000)]
        assert listener.has_cids
        require_allowable([listener], [16], None)
        assert not listener.sock.getblocking()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(f"({bound}, 9000)")
            fd, peer = listener.accept()
            with socket.socket(fileno=fd) as conn:
                assert peer == VsockAddress(16, 1234)
                assert not os.get_blocking(conn.fileno())
    assert listener.sock.fileno() == -1


@pytest.mark.parametrize(
    ("call", "address", "number", "remedy"),
    [
        ("socket", "vsock::9000", errno.EAFNOSUPPORT, "modprobe vsock"),
        ("socket", "vsock::9000", errno.EPERM, "socket activation, fd:N"),
        ("socket", "vsock::9000", errno.EMFILE, "ulimit -n"),
        ("socket", "vsock::9000", errno.ENFILE, "fs.file-max"),
        ("socket", "vsock:3:9000", errno.ENXIO, "nitrohb doctor"),
        ("bind", "vsock:5:9000", errno.EADDRNOTAVAIL, "the local CID, 3, or write vsock::9000"),
        ("bind", "vsock:1:9000", errno.EADDRNOTAVAIL, "modprobe vsock_loopback"),
        ("bind", "vsock::9000", errno.EADDRINUSE, "nitro-cli or QEMU"),
        ("bind", "vsock::90", errno.EACCES, "CAP_NET_BIND_SERVICE"),
    ],
)
def test_vsock_fails(
    script: Script,
    call: str,
    address: str,
    number: int,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vsock, "read_local_cid", lambda: 3)
    script.fails[call] = number
    explained(fails(address), address, number, remedy)


@pytest.mark.parametrize("cid", [CID_ANY, None])
def test_a_machine_without_a_cid(
    cid: int | None, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_local_cid() -> int:
        if cid is None:
            raise FileNotFoundError(errno.ENOENT, "no /dev/vsock")
        return cid

    monkeypatch.setattr(vsock, "read_local_cid", read_local_cid)
    script.fails["bind"] = errno.EADDRNOTAVAIL
    assert "the local CID, or write vsock::9000" in fails("vsock:5:9000").remedy


def test_a_python_without_af_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "AF_VSOCK", None)
    error = fails("vsock::9000")
    explained(error, "vsock::9000", None, "Use another Python")
    assert "fd:" not in error.remedy
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == NO_AF_VSOCK


def test_a_directory_in_which_no_socket_can_be_created(monkeypatch: pytest.MonkeyPatch) -> None:
    explained(fails("unix:a/b"), "unix:a/b", errno.ENOENT, "mkdir -p a")
    pathlib.Path("a").touch()
    explained(fails("unix:a/b"), "unix:a/b", errno.ENOTDIR, "another path")
    for number in (errno.EACCES, errno.EROFS):

        class Refused(socket.socket):
            def bind(self, address: object, number: int = number) -> None:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(socket, "socket", Refused)
        explained(fails("unix:b"), "unix:b", number, "a directory")


def explained(error: ListenError, address: str, number: int | None, remedy: str) -> None:
    """The first line says what is wrong, the next one what to do."""
    assert (error.address, error.errno) == (address, number)
    first, second = str(error).splitlines()
    assert first.startswith(f"cannot listen on {address}: ")
    assert remedy in second


# --- inherited sockets: their addresses and names -------------------------------------------------


class Bound(socket.socket):
    """A socket that claims to be bound to some name."""

    name: object

    def getsockname(self) -> object:
        return self.name


def test_where_an_inherited_socket_is_bound() -> None:
    for name, has_cids, address in (
        ((0xFFFFFFFF, 9000), True, "vsock::9000"),
        ((3, 9000), True, "vsock:3:9000"),
        ("/run/x y", False, "unix:/run/x y"),
        ("x", False, "fd:3"),  # from which directory?
        ("/run/x\ny", False, "fd:3"),
        ("", False, "fd:3"),
        (b"\0abstract", False, "fd:3"),
    ):
        with Bound(socket.AF_UNIX) as sock, Listener(InheritedSocket(3), sock) as listener:
            sock.name = name
            listener.has_cids = has_cids
            assert str(where_bound(listener)) == address
    with listening("unix:a") as listener:
        assert where_bound(listener) == UnixAddress("a"), "any other is where its address says"


def pass_in(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(names.count(":") + 1))
    monkeypatch.setenv("LISTEN_FDNAMES", names)


def test_a_name_of_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with inherited(server("theirs")) as fd:
        pass_in(monkeypatch, ":".join(f"n{number}" for number in range(3, fd + 1)))
        with pytest.raises(UsageError, match=f"^cannot listen on fd:{fd}: it is named twice"):
            open_listeners([f"fd:n{fd}", f"fd:{fd}"])
        with listening(f"fd:n{fd}") as listener:
            assert listener.address == InheritedSocket(fd)
            assert connects("theirs")


def test_a_name_of_no_socket_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    pass_in(monkeypatch, "a:b:a")
    for name, sockets in (("c", "fd:3 (a), fd:4 (b), fd:5 (a)"), ("a", "fd:3, fd:5")):
        error = fails(f"fd:{name}")
        assert (error.address, error.errno) == (f"fd:{name}", None)
        assert error.reason.endswith(f": {sockets}")
    monkeypatch.delenv("LISTEN_PID")
    assert fails("fd:c").reason.endswith(": none")
