# SPDX-License-Identifier: Apache-2.0
"""Let accept(2) of a real process fail with an errno of one's choice, at a moment of one's choice.

A seccomp filter hands every accept4(2) of the process to a supervisor here (seccomp_unotify(2)),
which lets it go on or fail. That is sturdier than the alternatives: it needs neither a package nor
a compiler nor the right to trace, it catches the system call whoever makes it, and *which* call
fails is decided by the test as it runs, not by counting calls beforehand.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import struct
import sys
import threading
from collections import deque
from typing import Self

from .bed import Under

# linux/filter.h, linux/seccomp.h, linux/prctl.h, asm/unistd.h
LOAD_WORD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, NEW_LISTENER = 38, 1, 1 << 3
CONTINUE = 1
SECCOMP, ACCEPT4 = {"x86_64": (317, 288), "aarch64": (277, 242)}.get(os.uname().machine, (0, 0))
REQUEST = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp
RECEIVE = 0xC0002100 | REQUEST.size << 16  # SECCOMP_IOCTL_NOTIF_RECV
SEND = 0xC0002101 | RESPONSE.size << 16  # SECCOMP_IOCTL_NOTIF_SEND

SUPPORTED = ACCEPT4 != 0
"""Whether the numbers of the system calls are known for this machine."""


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def notify_of_accepts() -> int:
    """Filter this process's accept4(2) from now on; returns the descriptor of its supervisor."""
    instructions = (
        (LOAD_WORD, 0, 0, 0),  # the number of the system call
        (JUMP_EQUAL, 0, 1, ACCEPT4),
        (RETURN, 0, 0, NOTIFY),
        (RETURN, 0, 0, ALLOW),
    )
    code = b"".join(struct.pack("HBBI", *each) for each in instructions)
    program = Program(len(instructions), code)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    fd: int = libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, ctypes.byref(program))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return fd


class AcceptFaults:
    """A supervisor, in a thread, of a process that is started ``under`` it."""

    def __init__(self) -> None:
        self._queue = deque[int]()
        self._ours, self._childs = socket.socketpair()
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    @property
    def under(self) -> Under:
        """This very file as a program, which takes the filter and becomes the server."""
        fd = self._childs.fileno()
        return Under((sys.executable, "-m", __name__, str(fd)), (fd,))

    def script(self, *errnos: int) -> None:
        """Let the next calls fail, one by one, with these."""
        self._queue.extend(errnos)

    def have_happened(self) -> bool:
        return not self._queue

    def _supervise(self) -> None:
        """Answer the child's calls until it ends."""
        _, listeners, _, _ = socket.recv_fds(self._ours, 1, 1)
        poll = select.poll()
        for listener in listeners:  # none, if there never was a child
            poll.register(listener, select.POLLIN)
            while poll.poll()[0][1] & select.POLLIN:  # else POLLHUP: nobody is left to ask
                with contextlib.suppress(FileNotFoundError):  # killed while it asked
                    self._answer(listener)
            os.close(listener)

    def _answer(self, listener: int) -> None:
        request = bytearray(REQUEST.size)
        fcntl.ioctl(listener, RECEIVE, request)
        cookie = REQUEST.unpack(request)[0]
        number = self._queue[0] if self._queue else 0
        answer = RESPONSE.pack(cookie, 0, -number, 0 if number else CONTINUE)
        fcntl.ioctl(listener, SEND, answer)
        if number:
            self._queue.popleft()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Once the child has been killed."""
        self._childs.close()
        self._thread.join()
        self._ours.close()


def main(fd: str, *command: str) -> None:
    """Be filtered, tell the supervisor so, and become another program."""
    with socket.socket(fileno=int(fd)) as supervisor:
        socket.send_fds(supervisor, [b"!"], [notify_of_accepts()])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
