# SPDX-License-Identifier: Apache-2.0
"""inotify(7), as much of it as it takes to learn that a path may lead elsewhere.

Three calls by ctypes, which trio has loaded anyway. The libraries that wrap them look for the C
library by running ldconfig or a compiler, and one of them brings asyncio: a server that listens
already would stand still for 10 to 100 ms.
"""

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Self

__all__ = ["ATTRIB", "DONT_FOLLOW", "MOVE_SELF", "Inotify"]

# linux/inotify.h
ATTRIB: Final = 0x00000004  # its metadata have changed: so have they when a name of it is removed
MOVE_SELF: Final = 0x00000800  # it has another name
DONT_FOLLOW: Final = 0x02000000  # watch a symbolic link itself

_MOST: Final = 64 * 1024  # bytes of events read at a time

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """An inotify instance, which becomes readable when something watched has changed.

    Closing it takes some 10 ms, for which the kernel waits: so have one, and keep it.

    Raises:
        OSError: There can be no more of them (128 per user, by default), or none at all.
    """

    def __init__(self) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._watched: set[int] = set()

    def fileno(self) -> int:
        """Its descriptor."""
        return self._fd

    def watch(self, masks: Mapping[str, int]) -> None:
        """Watch what is at some paths now, and nothing else any more.

        Args:
            masks: For each path what to watch for. Paths to the same thing must have the same.

        Raises:
            OSError: One of them cannot be watched; others may be.
        """
        before, self._watched = self._watched, set()
        try:
            for path, mask in masks.items():
                name = os.fsencode(path)
                self._watched.add(_checked(_libc.inotify_add_watch(self._fd, name, mask)))
        finally:
            for watch in before - self._watched:
                with suppress(OSError):  # what was deleted is not watched any more
                    _checked(_libc.inotify_rm_watch(self._fd, watch))

    def clear(self) -> None:
        """Take what has been told: it is not readable until there is more."""
        with suppress(BlockingIOError):
            os.read(self._fd, _MOST)

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
