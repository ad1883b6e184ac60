# SPDX-License-Identifier: Apache-2.0
"""Make accept(2) of a real process fail with a chosen errno, at a chosen moment.

A seccomp filter passes every accept4(2) of the process to a supervisor in the test
(seccomp_unotify(2)), which lets it go on or fail. This needs no package, no compiler and no right
to trace. It catches every such system call, and the test decides while it runs which one fails.
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
    """Filter accept4(2) of this process from now on; return the descriptor of the supervisor."""
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
        """This file as a program, which installs the filter and becomes the server."""
        fd = self._childs.fileno()
        return Under((sys.executable, "-m", __name__, str(fd)), (fd,))

    def script(self, *errnos: int) -> None:
        """Make the next calls fail with these, one by one."""
        self._queue.extend(errnos)

    def have_happened(self) -> bool:
        return not self._queue

    def _supervise(self) -> None:
        """Answer the calls of the child until it ends."""
        _, listeners, _, _ = socket.recv_fds(self._ours, 1, 1)
        poll = select.poll()
        for listener in listeners:  # none if no child was started
            poll.register(listener, select.POLLIN)
            while poll.poll()[0][1] & select.POLLIN:  # else POLLHUP: the child has ended
                with contextlib.suppress(FileNotFoundError):  # killed during the call
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
    """Install the filter, tell the supervisor, and become another program."""
    with socket.socket(fileno=int(fd)) as supervisor:
        socket.send_fds(supervisor, [b"!"], [notify_of_accepts()])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
