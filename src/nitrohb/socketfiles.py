# SPDX-License-Identifier: Apache-2.0
"""Socket files that are deleted or replaced while we listen: noticed, reported, and made anew.

Scripts that start a VM like to delete what an earlier VM may have left behind, and that includes
the socket on which we wait for its connections. The socket goes on to listen, but nobody finds it.

Nothing is asked of the system until it tells by inotify(7) that a path may lead elsewhere: for the
socket file itself that it was deleted, replaced or renamed, for each directory above it that it was
renamed, for each symbolic link among them that it was changed. Where the system does not learn of
all changes, as on a network's file system, or has no more to watch with, we look twice a second.
(What it never tells is that a file system is mounted over a directory.)
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Final, Protocol

import trio

from .addresses import Address
from .errors import ListenError
from .events import Event, Listening, Lost, utc_now
from .inotify import ATTRIB, DONT_FOLLOW, MOVE_SELF, Inotify
from .listeners import Listener

__all__ = ["Port", "keep_socket_files"]

# Seconds: between two looks where the system does not tell, between two attempts to listen again,
# and from a success to the next look, so that two who fight over a path do not take up the loop.
INTERVAL: Final = 0.5

# File systems that are changed through this very kernel and in no other way.
LOCAL: Final = {
    *("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "xfs", "zfs"),
    *("devtmpfs", "overlay", "ramfs", "tmpfs"),
}


class Port(Protocol):
    """What is asked of a listen address of the server."""

    @property
    def address(self) -> Address:
        """Where it listens."""
        ...

    @property
    def listener(self) -> Listener:
        """What it listens with."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether it listens no more, and is about to remove its file or has done so."""
        ...

    def change_listener(self, listener: Listener) -> None:
        """Go on with another listener, which belongs to the port from now on."""
        ...


async def keep_socket_files(ports: Iterable[Port], emit: Callable[[Event], object]) -> None:
    """See to it that the socket files of some ports stay where they are, until cancelled.

    Only files that we have made are looked after. A loss is reported within a second, by one
    :class:`Lost`, and when the address listens again there is a :class:`Listening`. As long as it
    cannot, it is tried again twice a second. Whatever others have put there is left alone, but a
    dead socket, as when listening for the first time.

    Args:
        ports: The ports; the listener task of each has taken its first step when this has.
        emit: Takes the events.

    Raises:
        BaseException: What ``emit`` raises.
    """
    files = [_SocketFile(port, emit) for port in ports if port.listener.file is not None]
    if not files:
        return
    await trio.lowlevel.checkpoint()  # the listener tasks have begun by now
    with _Lookout() as lookout:
        while True:
            kept = [file for file in files if not file.is_closed]
            lookout.turn_to(file.path for file in kept)  # first: from now on no change is missed
            lost = [file for file in kept if not file.is_kept()]
            if lost:
                await trio.sleep(INTERVAL)
            else:
                await lookout.wait()


class _SocketFile:
    """A socket file of ours."""

    def __init__(self, port: Port, emit: Callable[[Event], object]) -> None:
        assert port.listener.file is not None
        self.path = port.listener.file
        self._port = port
        self._emit = emit
        self._is_lost = False

    @property
    def is_closed(self) -> bool:
        return self._port.is_closed

    def is_kept(self) -> bool:
        """Whether it is where it was. If not, report that, and try to listen there again."""
        loss = self._port.listener.loss()
        if loss is None:
            if self._is_lost:  # whoever has taken it away has put it back
                self._tell_it_is_back()
            return True
        problem = self._try_again()
        if not self._is_lost:
            self._is_lost = True
            address, replaced = self._port.address, loss == "replaced"
            self._emit(Lost(address=address, time=utc_now(), replaced=replaced, problem=problem))
        if problem is None:
            self._tell_it_is_back()
        return False

    def _try_again(self) -> str | None:
        """Listen there again, or say why that cannot be."""
        try:
            listener = self._port.listener.reopen()
        except ListenError as error:
            return str(error)
        self._port.change_listener(listener)
        return None

    def _tell_it_is_back(self) -> None:
        self._is_lost = False
        self._emit(Listening(address=self._port.address, time=utc_now()))


class _Lookout:
    """Waits until some paths may lead elsewhere."""

    def __init__(self) -> None:
        self._closing = ExitStack()
        self._inotify: Inotify | None = None
        self._is_told = False  # of every change, by inotify
        self._is_local: dict[int, bool] = {}  # by device

    def turn_to(self, paths: Iterable[str]) -> None:
        """Look at these paths from now on, as they are now."""
        self._is_told = False
        masks: dict[str, int] = {}
        with suppress(OSError):
            for path in paths:
                if not self._are_changes_told(os.path.dirname(path)):
                    return
                masks |= _masks(path)
            if self._inotify is None:
                self._inotify = self._closing.enter_context(Inotify())
            self._inotify.watch(masks)
            self._is_told = True

    async def wait(self) -> None:
        """Wait until there may have been a change."""
        if self._inotify is None or not self._is_told:
            await trio.sleep(INTERVAL)
            return
        await trio.lowlevel.wait_readable(self._inotify)
        self._inotify.clear()

    def _are_changes_told(self, directory: str) -> bool:
        """Whether the file system of a directory is one of those that tell all their changes."""
        device = os.stat(directory).st_dev
        if device not in self._is_local:
            self._is_local[device] = file_system(directory) in LOCAL
        return self._is_local[device]

    def __enter__(self) -> "_Lookout":
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def _masks(path: str) -> dict[str, int]:
    """What to watch so that no change goes unnoticed of where a path leads, and for what."""
    directory = os.path.dirname(path)
    above = {*_up(directory), *_up(os.path.realpath(directory))}
    # A directory tells of its files' metadata, too, which would be noise: in /tmp a lot of it.
    masks = {each: MOVE_SELF | (ATTRIB if os.path.islink(each) else 0) for each in above}
    masks[path] = MOVE_SELF | ATTRIB
    return {each: mask | DONT_FOLLOW for each, mask in masks.items()}


def _up(directory: str) -> Iterator[str]:
    """A directory, and those above it."""
    yield directory
    while (above := os.path.dirname(directory)) != directory:
        yield (directory := above)


def file_system(directory: str) -> str:
    """The type of a directory's file system, by its mount: see proc(5). Empty: it is not known.

    Raises:
        OSError: The directory is not there, or /proc is not.
    """
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as lines:
            facts = dict(line.split(":", 1) for line in lines)
    finally:
        os.close(fd)
    with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
        for mount in mounts:
            fields = mount.split(" ")
            if fields[0] == facts["mnt_id"].strip():
                return fields[fields.index("-") + 1]
    return ""
