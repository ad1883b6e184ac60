# SPDX-License-Identifier: Apache-2.0
"""Listening sockets, nearly all of them real Unix sockets in a directory of the test's own."""

import errno
import fcntl
import os
import pathlib
import re
import socket
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from nitrohb import listeners, wire
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
from nitrohb.listeners import (
    Listen,
    Listener,
    check_distinct,
    open_listeners,
    require_cids,
    resolve,
    take_over,
    where_bound,
)
from nitrohb.remedies import NO_AF_VSOCK

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory, so that paths stay shorter than 108 bytes wherever pytest puts it."""
    monkeypatch.chdir(tmp_path)


@contextmanager
def listening(*listen: Listen, mode: int = 0o600, group: int | None = None) -> Generator[Listener]:
    """Listen; yields the first listener, and closes all of them."""
    with ExitStack() as stack:
        opened = open_listeners(listen, socket_mode=mode, socket_group=group)
        for listener in opened:
            stack.enter_context(listener)
        yield opened[0]


def fails(*listen: Listen, mode: int = 0o600, group: int | None = None) -> ListenError:
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
    "address",
    ["unix:a", "hybrid:vm4:9000", UnixAddress("a"), HybridAddress("vm4", 9000)],
    ids=str,
)
def test_listen_and_accept(address: str | UnixAddress | HybridAddress) -> None:
    with listening(address) as listener:
        assert str(listener.address) == str(address)
        assert not listener.has_cids
        assert not listener.sock.getblocking()
        assert not listener.sock.get_inheritable()
        with pytest.raises(BlockingIOError):
            listener.accept()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(listener.sock.getsockname()))
            fd, peer = listener.accept()
            with socket.socket(fileno=fd) as conn:
                assert peer is None
                assert not os.get_blocking(conn.fileno())
                client.send(b"\xb7")
                assert conn.recv(2) == b"\xb7"
    assert os.listdir() == []


def test_a_hybrid_address_is_the_file_beside_the_vm() -> None:
    with listening("hybrid:vm4:9000"):
        assert os.listdir() == ["vm4_9000"]


def test_listeners_come_in_the_order_of_their_addresses() -> None:
    names = ["unix:b", "unix:a", "hybrid:c:1"]
    opened = open_listeners(names)
    with ExitStack() as stack:
        for listener in opened:
            stack.enter_context(listener)
        assert [str(listener.address) for listener in opened] == names


def test_age_counts_from_the_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with listening("unix:a") as listener:
        assert listener.age == 0.0
        now = 102.5
        assert listener.age == 2.5


def test_time_is_when_it_began_to_listen() -> None:
    before = datetime.now(UTC)
    with listening("unix:a") as listener:
        after = datetime.now(UTC)
        assert before <= listener.time <= after
        assert listener.time.tzinfo is UTC


def test_closing_twice_is_closing_once() -> None:
    with listening("unix:a") as listener:
        listener.close()
        assert os.listdir() == []
        assert listener.sock.fileno() == -1
        with server("a"):
            listener.close()
            assert connects("a"), "the second close() must not take the next server's file"


def test_close_leaves_a_file_alone_that_has_taken_the_name() -> None:
    with listening("unix:a") as listener:
        os.rename("a", "moved")
        with server("a"):
            listener.close()
            assert connects("a")
    assert sorted(os.listdir()) == ["a", "moved"]


def test_close_takes_a_file_that_is_gone_for_removed() -> None:
    with listening("unix:a") as listener:
        os.unlink("a")
        listener.close()
        assert listener.sock.fileno() == -1


def test_a_file_that_went_before_it_was_looked_at() -> None:
    """As where a VM's start script deletes the sockets of the VM's last run."""
    sock = server("a")
    os.unlink("a")
    listener = Listener(UnixAddress("a"), sock, path="a")
    listener.close()
    assert sock.fileno() == -1


def test_a_file_that_cannot_be_removed_does_not_keep_the_socket_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where privileges were dropped after listening in a directory of root's."""

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "not yours", path)

    with listening("unix:a") as listener:
        monkeypatch.setattr(os, "unlink", refuse)
        listener.close()
        assert listener.sock.fileno() == -1
        assert not connects("a")


# --- all or nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["unix:no/such/directory", "fd:1048576"])
def test_all_or_nothing(bad: str) -> None:
    assert str(fails("unix:a", "hybrid:b:1", bad).address) == bad
    assert os.listdir() == []


def test_a_malformed_address_stops_all_before_any_is_opened() -> None:
    with server("theirs"), pytest.raises(AddressError):
        open_listeners(["unix:theirs", "nonsense"])


def test_what_is_handed_in_is_closed_if_listening_fails() -> None:
    sock, other = server("theirs"), server("other")
    listener = Listener(UnixAddress("other"), other, path="other")
    fails(sock, listener, "unix:no/such/directory")
    assert sock.fileno() == other.fileno() == -1
    assert os.listdir() == ["theirs"], "a listener has its file removed, a socket has not"


def test_what_is_handed_in_is_closed_if_an_address_is_malformed() -> None:
    sock = server("theirs")
    with pytest.raises(AddressError):
        open_listeners([sock, "nonsense"])
    assert sock.fileno() == -1


def test_take_over_closes_only_what_is_open() -> None:
    sock = server("theirs")
    with take_over(["unix:a", UnixAddress("b"), sock]):
        assert sock.fileno() >= 0
    assert sock.fileno() == -1
    assert os.listdir() == ["theirs"]


@pytest.mark.parametrize(
    ("twice", "name"),
    [
        (["unix:a", "unix:a"], "unix:a"),
        (["unix:a", UnixAddress("a")], "unix:a"),
        (["hybrid:a:1", "hybrid:b:1", "hybrid:a:1"], "hybrid:a:1"),
        (["vsock::9000", VsockAddress(CID_ANY, 9000)], "vsock::9000"),
        (["fd:3", InheritedSocket(3)], "fd:3"),
    ],
)
def test_an_address_named_twice(twice: list[Listen], name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} is named twice: "):
        open_listeners(twice)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unix:a", "unix:./a"),
        ("unix:deep/../a", "unix:a"),
        ("unix:link/a", "unix:deep/a"),
        ("hybrid:a:1", "unix:a_1"),
        ("vsock::9000", "vsock:3:9000"),
        ("vsock:3:9000", "vsock::9000"),
    ],
)
@pytest.mark.parametrize("between", [[], ["unix:b", "vsock:3:9001"]])
def test_an_address_named_twice_in_other_words(one: str, other: str, between: list[str]) -> None:
    os.mkdir("deep")
    os.symlink("deep", "link")
    message = f"^{re.escape(f'{one} and {other} exclude each other: ')}.*Name one of the two$"
    with pytest.raises(UsageError, match=message):
        open_listeners([one, *between, other])
    assert sorted(os.listdir()) == ["deep", "link"]


def test_addresses_that_only_look_alike() -> None:
    os.mkdir("deep")
    check_distinct(
        map(parse_address, ["unix:a", "unix:deep/a", "hybrid:a:1", "unix:a_2", "fd:3", "fd:4"])
    )
    check_distinct(map(parse_address, ["vsock:1:9000", "vsock:3:9000", "vsock::9001"]))


@pytest.mark.parametrize("other", ["object", "number"])
def test_a_socket_named_twice(other: str) -> None:
    """Two owners of one descriptor would close it twice, and the second time it is another's."""
    sock = server("theirs")
    fd = sock.fileno()
    with pytest.raises(UsageError, match=f"^fd:{fd} is named twice: "):
        open_listeners([sock, sock if other == "object" else f"fd:{fd}"])
    assert sock.fileno() == -1


def test_a_listener_and_its_address() -> None:
    with listening("unix:a") as listener:
        with pytest.raises(UsageError, match=r"^unix:a is named twice"):
            open_listeners([listener, "unix:a"])
        assert listener.sock.fileno() == -1


def test_a_listener_is_passed_through() -> None:
    with listening("unix:a") as listener:
        assert open_listeners([listener]) == [listener]
        assert connects("a")


def test_a_socket_that_is_closed_already() -> None:
    sock = server("theirs")
    sock.close()
    with pytest.raises(UsageError, match=r"expected a file descriptor .* got '-1'"):
        open_listeners([sock])


def test_a_vsock_port_must_be_named() -> None:
    with pytest.raises(UsageError, match="leaves the port to the kernel"):
        open_listeners([VsockAddress(CID_ANY, PORT_ANY)])


# --- allow-lists need CIDs ----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["unix:a", "hybrid:a:1"])
def test_a_unix_socket_has_no_cids(text: str) -> None:
    with pytest.raises(UsageError, match=f"^{text} is a Unix socket, whose peers have no CID"):
        require_cids(resolve(["vsock::9000", text]))


def test_an_open_unix_socket_has_no_cids() -> None:
    with listening(server("theirs")) as listener:
        require_cids([listener.sock])  # unknown as yet
        with pytest.raises(UsageError, match=r"^fd:\d+ is a Unix socket"):
            require_cids([listener])


def test_vsock_has_cids() -> None:
    require_cids(resolve(["vsock::9000", "vsock:3:9001", "fd:3"]))


# --- socket files -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a", "./a", "deep/a"])
def test_a_dead_socket_is_replaced(path: str) -> None:
    os.mkdir("deep")
    leave_dead_socket(path)
    with listening(f"unix:{path}"):
        assert connects(path)
    assert not os.path.lexists(path)


def test_a_live_socket_is_left_alone_and_does_not_even_notice() -> None:
    with server("a") as theirs:
        before = inode("a")
        error = fails("unix:a")
        assert error.errno == errno.EADDRINUSE
        assert error.reason == "another process listens there (EADDRINUSE)"
        with pytest.raises(BlockingIOError):
            theirs.accept()
        assert inode("a") == before
        assert connects("a")


def test_a_socket_that_is_about_to_listen_is_not_dead() -> None:
    with bound("a") as theirs:
        assert fails("unix:a").errno == errno.EADDRINUSE
        theirs.listen()
        assert connects("a")


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_live_socket_of_another_kind_is_left_alone(kind: int) -> None:
    with bound("a", kind):
        before = inode("a")
        assert fails("unix:a").errno == errno.EADDRINUSE
        assert inode("a") == before


def make_file() -> None:
    pathlib.Path("a").write_text("precious")


def make_directory() -> None:
    os.mkdir("a")


def make_fifo() -> None:
    os.mkfifo("a")


def make_dangling_symlink() -> None:
    os.symlink("nowhere", "a")


def make_symlink_to_dead_socket() -> None:
    leave_dead_socket("b")
    os.symlink("b", "a")


@pytest.mark.parametrize(
    "make",
    [make_file, make_directory, make_fifo, make_dangling_symlink, make_symlink_to_dead_socket],
)
def test_what_is_no_socket_is_left_alone(make: Callable[[], None]) -> None:
    make()
    before = inode("a")
    error = fails("unix:a")
    assert error.errno == errno.EEXIST
    what = "is a directory" if make is make_directory else "exists and is not a socket"
    assert error.reason == f"a {what} (EEXIST)"
    assert inode("a") == before


def test_a_symlink_to_a_live_socket_is_left_alone() -> None:
    os.symlink("b", "a")
    with server("b") as theirs:
        assert fails("unix:a").errno == errno.EEXIST
        with pytest.raises(BlockingIOError):
            theirs.accept()


def test_a_probe_that_is_refused_is_no_sign_of_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket file of another user, which this one may not write to."""

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
def test_a_socket_that_its_owner_removes_meanwhile(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_socket_file_is_for_its_owner_alone(umask: int) -> None:
    assert mode_under(umask, 0o600) == 0o600


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o660, 0o666, 0o777])
def test_a_socket_file_has_the_mode_that_was_asked_for(umask: int, mode: int) -> None:
    assert mode_under(umask, mode) == mode


def mode_under(umask: int, mode: int) -> int:
    before = os.umask(umask)
    try:
        with listening("unix:a", mode=mode):
            return stat.S_IMODE(os.lstat("a").st_mode)
    finally:
        os.umask(before)


def test_there_is_no_moment_at_which_others_may_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            assert isinstance(address, str)
            super().bind(address)
            seen.append(stat.S_IMODE(os.lstat(address).st_mode))

    monkeypatch.setattr(socket, "socket", Watched)
    assert mode_under(0, 0o666) == 0o666
    assert seen == [0o600]


def test_a_socket_file_has_the_group_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    chown = os.chown

    def watched_chown(path: str, uid: int, gid: int) -> None:
        asked.append((uid, gid))
        chown(path, uid, gid)

    monkeypatch.setattr(os, "chown", watched_chown)
    with listening("unix:a", group=os.getgid()):
        assert os.lstat("a").st_gid == os.getgid()
        assert stat.S_IMODE(os.lstat("a").st_mode) == 0o600
    assert asked == [(-1, os.getgid())]


def test_a_group_that_is_not_ours_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, uid: int, gid: int) -> None:
        raise PermissionError(errno.EPERM, "not a member")

    monkeypatch.setattr(os, "chown", refuse)
    error = fails("unix:a", group=1)
    assert error.errno == errno.EPERM
    assert "a group of which you are a member" in error.remedy
    assert os.listdir() == []


def make_link_to_file() -> None:
    pathlib.Path("victim").write_text("secret")
    os.link("victim", "a")


def make_symlink_to_socket() -> None:
    bound("victim").close()
    os.symlink("victim", "a")


@pytest.mark.parametrize("make", [make_link_to_file, make_symlink_to_socket])
def test_a_name_that_is_swapped_under_us_is_not_shared_nor_removed(
    make: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the directory must not get the mode of another file changed."""
    os_open = os.open

    def swap_and_open(path: str, flags: int) -> int:
        os.unlink(path)
        make()
        os.chmod("victim", 0o600)
        return os_open(path, flags)

    monkeypatch.setattr(os, "open", swap_and_open)
    assert fails("unix:a", mode=0o666).errno == errno.EEXIST
    assert stat.S_IMODE(os.stat("victim").st_mode) == 0o600
    assert sorted(os.listdir()) == ["a", "victim"]


def test_a_name_that_vanishes_under_us(monkeypatch: pytest.MonkeyPatch) -> None:
    os_open = os.open

    def remove_and_open(path: str, flags: int) -> int:
        os.unlink(path)
        return os_open(path, flags)

    monkeypatch.setattr(os, "open", remove_and_open)
    assert fails("unix:a", mode=0o666).errno == errno.ENOENT


# --- the lock -----------------------------------------------------------------------------------


class Naps:
    """``time.sleep``, counted instead of slept; something may happen during one of them."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.during: dict[int, Callable[[], None]] = {}

    def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.during.get(len(self.taken), lambda: None)()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    naps = Naps()
    monkeypatch.setattr(time, "sleep", naps)
    return naps


@pytest.fixture
def locked(here: None) -> Iterator[int]:
    """A lock that somebody else holds on the current directory."""
    fd = os.open(".", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)


@pytest.mark.usefixtures("locked")
def test_a_lock_that_stays_ends_the_wait(naps: Naps) -> None:
    leave_dead_socket("a")
    error = fails("unix:a")
    assert error.errno == errno.EWOULDBLOCK
    assert error.reason.startswith("another process has locked ., in which a dead socket")
    assert naps.taken == [0.01] * 100
    assert os.listdir() == ["a"]


def test_a_lock_that_goes_is_waited_for(naps: Naps, locked: int) -> None:
    leave_dead_socket("a")
    naps.during[3] = lambda: fcntl.flock(locked, fcntl.LOCK_UN)
    with listening("unix:a"):
        assert connects("a")
    assert naps.taken == [0.01] * 3


def test_who_held_the_lock_may_have_been_faster(naps: Naps, locked: int) -> None:
    leave_dead_socket("a")
    with ExitStack() as stack:

        def win() -> None:
            os.unlink("a")
            stack.enter_context(server("a"))
            fcntl.flock(locked, fcntl.LOCK_UN)

        naps.during[1] = win
        assert fails("unix:a").errno == errno.EADDRINUSE
        assert connects("a")


@pytest.mark.usefixtures("locked")
def test_no_lock_is_needed_where_nothing_has_to_be_replaced(naps: Naps) -> None:
    with listening("unix:a"):
        assert connects("a")
    assert naps.taken == []


def test_the_lock_is_released_and_leaves_nothing_behind() -> None:
    leave_dead_socket("a")
    with listening("unix:a"):
        fd = os.open(".", os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
        assert os.listdir() == ["a"]


def test_of_many_who_replace_one_dead_socket_one_wins() -> None:
    leave_dead_socket("a")
    start = threading.Barrier(8)
    won: list[Listener] = []
    lost: list[int | None] = []

    def compete() -> None:
        start.wait()
        try:
            won.extend(open_listeners(["unix:a"]))
        except ListenError as error:
            lost.append(error.errno)

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ExitStack() as stack:
        for listener in won:
            stack.enter_context(listener)
        assert len(won) == 1
        assert lost == [errno.EADDRINUSE] * 7
        assert connects("a")


# --- inherited sockets --------------------------------------------------------------------------


@contextmanager
def inherited(sock: socket.socket) -> Generator[int]:
    """A descriptor as it comes from another program: open, without CLOEXEC, and nobody's."""
    fd = sock.detach()
    os.set_inheritable(fd, True)
    try:
        yield fd
    finally:
        with suppress(OSError):  # it may have been taken over, and closed
            os.close(fd)


def test_a_listening_descriptor_is_adopted() -> None:
    with inherited(server("theirs")) as fd, listening(f"fd:{fd}") as listener:
        assert listener.address == InheritedSocket(fd)
        assert listener.sock.fileno() == fd
        assert not listener.has_cids
        assert not listener.sock.getblocking()
        assert not os.get_inheritable(fd), "a child would keep the address open"
        assert connects("theirs")
    assert os.listdir() == ["theirs"], "the file is not ours to remove"


def test_a_listening_socket_object_is_adopted() -> None:
    sock = server("theirs")
    sock.setblocking(True)
    sock.set_inheritable(True)
    with listening(sock) as listener:
        assert listener.sock is sock
        assert str(listener.address) == f"fd:{sock.fileno()}"
        assert not sock.getblocking()
        assert not sock.get_inheritable()
    assert sock.fileno() == -1
    assert os.listdir() == ["theirs"]


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
def test_a_descriptor_of_another_kind_is_refused_and_left_as_it_was(
    make: Callable[[], socket.socket], number: int
) -> None:
    with inherited(make()) as fd:
        error = fails(f"fd:{fd}")
        assert (error.address, error.errno) == (f"fd:{fd}", number)
        assert os.get_inheritable(fd)
        assert os.get_blocking(fd)


@pytest.mark.parametrize(("make", "number"), REFUSED)
def test_a_socket_object_of_another_kind_is_refused_and_closed(
    make: Callable[[], socket.socket], number: int
) -> None:
    sock = make()
    assert fails(sock).errno == number
    assert sock.fileno() == -1


def test_a_file_is_no_socket() -> None:
    with open("a", "wb") as file:
        assert fails(f"fd:{file.fileno()}").errno == errno.ENOTSOCK
        assert os.fstat(file.fileno())


def test_a_number_that_is_no_descriptor() -> None:
    assert fails("fd:1048576").errno == errno.EBADF


def test_a_python_without_af_vsock_could_not_accept_from_an_inherited_one() -> None:
    """Hence no remedy says so: ``accept()`` refuses a family that Python was built without."""
    with socket.socket(99, socket.SOCK_STREAM, fileno=server("theirs").detach()) as strange:
        assert connects("theirs")
        with pytest.raises(OSError, match="bad family") as caught:
            strange.accept()
        assert caught.value.errno is None
        error = fails(strange)
    assert error.errno == errno.EAFNOSUPPORT
    assert "an AF_VSOCK one that this Python knows" in error.reason


# --- AF_VSOCK, by scripted sockets --------------------------------------------------------------

AF_VSOCK = 40  # of linux/socket.h; Python may not have it


class Script:
    """What goes wrong with the next sockets, and what was done with them."""

    def __init__(self) -> None:
        self.on_socket = 0
        self.on_bind = 0
        self.calls: list[object] = []


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """AF_VSOCK as the script has it, on any machine: behind each socket is a Unix socket."""
    script = Script()

    class Scripted(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            script.calls.append((family, kind))
            if script.on_socket:
                raise OSError(script.on_socket, os.strerror(script.on_socket))
            super().__init__(socket.AF_UNIX, kind)

        @property
        def family(self) -> int:  # type: ignore[override]
            return AF_VSOCK

        def bind(self, address: object) -> None:
            script.calls.append(address)
            if script.on_bind:
                raise OSError(script.on_bind, os.strerror(script.on_bind))
            super().bind(str(address))

        def _accept(self) -> tuple[int, tuple[int, int]]:
            with socket.socket(fileno=os.dup(self.fileno())) as plain:
                return plain.accept()[0].detach(), (16, 1234)

    monkeypatch.setattr(wire, "socket", SimpleNamespace(socket=Scripted, SOCK_STREAM=1))
    monkeypatch.setattr(wire, "AF_VSOCK", AF_VSOCK)
    monkeypatch.setattr(listeners, "AF_VSOCK", AF_VSOCK)
    return script


def test_vsock(script: Script) -> None:
    with listening("vsock:3:9000") as listener:
        assert script.calls == [(AF_VSOCK, socket.SOCK_STREAM), (3, 9000)]
        assert listener.has_cids
        require_cids([listener])
        assert not listener.sock.getblocking()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect("(3, 9000)")
            fd, peer = listener.accept()
            with socket.socket(fileno=fd) as conn:
                assert peer == VsockAddress(16, 1234)
                assert not os.get_blocking(conn.fileno())
    assert listener.sock.fileno() == -1


def test_vsock_on_every_cid(script: Script) -> None:
    with listening("vsock::9000"):
        assert script.calls[1] == (0xFFFFFFFF, 9000)


@pytest.mark.parametrize(
    ("address", "number", "reason", "remedy"),
    [
        ("vsock::9000", errno.EAFNOSUPPORT, "this kernel has no AF_VSOCK", "modprobe vsock"),
        ("vsock::9000", errno.EPERM, "seccomp profile", "socket activation, fd:N"),
        ("vsock::9000", errno.EMFILE, "this process has too many open files", "ulimit -n"),
        ("vsock::9000", errno.ENFILE, "the system has too many open files", "fs.file-max"),
        ("vsock:3:9000", errno.ENXIO, "No such device or address", "nitrohb doctor"),
    ],
)
def test_vsock_fails_in_socket(
    script: Script, address: str, number: int, reason: str, remedy: str
) -> None:
    script.on_socket = number
    explained(fails(address), address, number, reason, remedy)


@pytest.mark.parametrize(
    ("address", "number", "reason", "remedy"),
    [
        ("vsock:5:9000", errno.EADDRNOTAVAIL, "CID 5 is not a CID of this", "vsock::9000"),
        ("vsock:1:9000", errno.EADDRNOTAVAIL, "CID 1 is the loopback", "modprobe vsock_loopback"),
        ("vsock::9000", errno.EADDRINUSE, "port 9000 is taken; a listener on any CID", "QEMU"),
        ("vsock::9000", errno.EADDRINUSE, "port 9000 is taken", "nitro-cli"),
        ("vsock::90", errno.EACCES, "ports below 1024", "CAP_NET_BIND_SERVICE"),
    ],
)
def test_vsock_fails_in_bind(
    script: Script, address: str, number: int, reason: str, remedy: str
) -> None:
    script.on_bind = number
    explained(fails(address), address, number, reason, remedy)


def test_a_python_without_af_vsock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "AF_VSOCK", None)
    error = fails("vsock::9000")
    explained(error, "vsock::9000", None, "this Python was built without", "Use another Python")
    assert "fd:" not in error.remedy
    assert isinstance(error.__cause__, OSError)
    assert error.__cause__.errno == NO_AF_VSOCK


@pytest.mark.parametrize(
    ("number", "reason", "remedy"),
    [
        (errno.EACCES, "may not be created", "a directory in which you may write"),
        (errno.EROFS, ". is on a read-only file system", "a directory in which you may write"),
    ],
)
def test_a_unix_socket_fails_in_bind(
    number: int, reason: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", Refused)
    explained(fails("unix:a"), "unix:a", number, reason, remedy)


def test_a_directory_that_is_a_file() -> None:
    make_file()
    explained(fails("unix:a/b"), "unix:a/b", errno.ENOTDIR, "a is not a directory", "another path")


def test_a_directory_that_does_not_exist() -> None:
    explained(fails("unix:a/b"), "unix:a/b", errno.ENOENT, "a does not exist", "mkdir -p a")


def explained(
    error: ListenError, address: str, number: int | None, reason: str, remedy: str
) -> None:
    """One line of what is wrong, one of what helps."""
    assert (error.address, error.errno) == (address, number)
    first, second = str(error).splitlines()
    assert first.startswith(f"cannot listen on {address}: ")
    assert reason in first
    assert remedy in second


# --- inherited sockets: where they are bound, and by which name they were passed ------------------


class Bound(socket.socket):
    """A socket that says it is bound to some name."""

    name: object

    def getsockname(self) -> object:
        return self.name


@pytest.mark.parametrize(
    ("name", "has_cids", "address"),
    [
        ((0xFFFFFFFF, 9000), True, "vsock::9000"),
        ((3, 9000), True, "vsock:3:9000"),
        ("/run/x y", False, "unix:/run/x y"),
        ("x", False, "fd:3"),  # from which directory?
        ("/run/x\ny", False, "fd:3"),
        ("", False, "fd:3"),
        (b"\0abstract", False, "fd:3"),
    ],
)
def test_inherited_socket_is_named_by_where_it_is_bound_if_that_can_be_told(
    name: object, has_cids: bool, address: str
) -> None:
    with Bound(socket.AF_UNIX) as sock, Listener(InheritedSocket(3), sock) as listener:
        sock.name = name
        listener.has_cids = has_cids
        assert str(where_bound(listener)) == address


def test_any_other_listener_is_where_its_address_says() -> None:
    with listening("unix:a") as listener:
        assert where_bound(listener) == UnixAddress("a")


def pass_in(monkeypatch: pytest.MonkeyPatch, names: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(names.count(":") + 1))
    monkeypatch.setenv("LISTEN_FDNAMES", names)


def test_a_name_is_that_of_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with inherited(server("theirs")) as fd:
        pass_in(monkeypatch, ":".join(f"n{number}" for number in range(3, fd + 1)))
        with listening(f"fd:n{fd}") as listener:
            assert listener.address == InheritedSocket(fd)
            assert connects("theirs")


def test_a_name_and_a_number_of_the_same_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    pass_in(monkeypatch, "a:b")
    with pytest.raises(UsageError, match=r"^fd:4 is named twice: "):
        open_listeners(["fd:b", "fd:4"])


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    pass_in(monkeypatch, "a:b")
    error = fails("fd:c")
    assert (error.address, error.errno) == ("fd:c", None)
    assert error.reason == (
        "no socket of this name was passed in; those that were: fd:3 (a), fd:4 (b)"
    )


def test_a_name_where_nothing_was_passed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert fails("fd:c").reason.endswith("; those that were: none at all")


def test_a_name_that_several_have(monkeypatch: pytest.MonkeyPatch) -> None:
    pass_in(monkeypatch, "a:b:a")
    error = fails("fd:a")
    assert error.reason == "several sockets of this name were passed in: fd:3, fd:5"
