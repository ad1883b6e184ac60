# SPDX-License-Identifier: Apache-2.0
"""Socket files: create one with the right mode, replace a dead one, leave any other alone."""

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
    """Return the absolute path. os.path.abspath() is wrong for a/../b if a is a symlink."""
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)


def set_permissions(path: str, mode: int, group: int | None) -> None:
    """Set the mode and group of a new socket file, but not of a file that has replaced it."""
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
    """Bind a socket to a path, and replace a dead socket file there.

    Raises:
        OSError: EADDRINUSE if another process listens there, EEXIST if the file is not a socket,
            EWOULDBLOCK if the directory is still locked after all attempts.
    """
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        with _locked(os.path.dirname(path) or ".", attempts):
            with suppress(FileNotFoundError):  # its owner has just removed it
                _remove_dead_socket(path)
            sock.bind(path)


def _remove_dead_socket(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "not a socket")
    # Probe with a datagram socket, because a server would have to handle a connection. EPROTOTYPE
    # means that a stream socket is bound there, ECONNREFUSED that the socket of the file is gone.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
    raise OSError(errno.EADDRINUSE, "a process already uses that path")


@contextmanager
def _locked(directory: str, attempts: int) -> Generator[None]:
    """Keep another nitrohb from removing a new socket file in the belief that it is the dead one.

    The lock is on the directory, so there is no lock file to remove. The wait is limited, because
    any process that can read the directory can lock it.
    """
    import fcntl  # rarely needed

    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                attempts -= 1
                if not attempts:
                    raise OSError(errno.EWOULDBLOCK, "the directory stays locked") from None
                time.sleep(_LOCK_PAUSE)
        yield
    finally:
        os.close(fd)


def remove_own(path: str, own: tuple[int, int] | None) -> None:
    """Remove a socket file, unless another file has replaced it.

    If that fails, for example because privileges were dropped, the next start replaces the dead
    file.
    """
    with suppress(OSError):
        if identity(path) == own:
            os.unlink(path)


def identity(path: str) -> tuple[int, int] | None:
    """Return the device and inode of a file; None if it cannot be examined."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
