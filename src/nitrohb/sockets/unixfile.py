# SPDX-License-Identifier: Apache-2.0
"""The files of Unix sockets: made without a moment's gap, a dead one replaced, no other touched."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Final

LOCK_ATTEMPTS: Final = 100
_LOCK_PAUSE: Final = 0.01  # seconds


def absolute(path: str) -> str:
    """The absolute path.

    Not os.path.abspath(), for which a/../b is b: not so if a is a symbolic link.
    """
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def share(path: str, mode: int, group: int | None) -> None:
    """Give our new socket file another mode and group, even if its name is swapped meanwhile."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.EEXIST, "another file has taken the name")
        pinned = f"/proc/self/fd/{fd}"
        if group is not None:
            os.chown(pinned, -1, group)
        os.chmod(pinned, mode)
    finally:
        os.close(fd)


def bind(sock: socket.socket, path: str, attempts: int) -> None:
    """Bind a socket to a path, in the place of a dead socket if there is one.

    Raises:
        OSError: EADDRINUSE if somebody listens there, EEXIST if it is no socket, EWOULDBLOCK if
            others have the directory locked for as many attempts as that.
    """
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        with _locked(os.path.dirname(path) or ".", attempts):
            with suppress(FileNotFoundError):  # whoever it was has just removed it
                _remove_dead_socket(path)
            sock.bind(path)


def _remove_dead_socket(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "not a socket")
    # A datagram socket asks without being noticed: EPROTOTYPE says that a stream socket is bound
    # there, whether it listens yet or not, and no connection is made that a server would have to
    # handle. ECONNREFUSED says that the socket behind the file is gone.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise OSError(errno.EADDRINUSE, "somebody listens there")


@contextmanager
def _locked(directory: str, attempts: int) -> Generator[None]:
    """Keep another nitrohb from removing our new socket for the dead one that it saw before.

    The lock is on the directory, so that it leaves no file behind. Whoever may read the directory
    could hold it for ever: hence the bounded wait.
    """
    import fcntl  # here, because most of the time nobody has left a dead socket

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(attempts):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            else:
                break
        else:
            raise OSError(errno.EWOULDBLOCK, "the directory stays locked")
        yield
    finally:
        os.close(fd)


def remove_own(path: str, file: tuple[int, int] | None) -> None:
    """Remove a socket file of ours, unless another file has taken its name.

    One that cannot be removed, say because privileges were dropped since, stays behind as a dead
    socket, which the next start replaces. That is no reason to leave the socket itself open.
    """
    with suppress(OSError):
        if identity(path) == file:
            os.unlink(path)


def identity(path: str) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None if there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
