# SPDX-License-Identifier: Apache-2.0
"""The clients: a correct enclave, and flooders. This is a separate program, so it starts quickly.

    python -IS clients.py ROLE ADDRESS [NUMBER ...]

It prints JSON lines: ``goal`` when it has reached its goal; the enclave prints ``sent`` when it has
sent its byte, then ``echoed`` or ``failed``. Then it goes on until its stdin ends, so it does not
outlive its parent. If the server lets it wait for too long, SIGALRM ends it.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable

HEARTBEAT = b"\xb7"
PATIENCE = 60  # seconds that a call may block
BLOCK = bytes(2 << 20)


def connect(address: str) -> socket.socket:
    """Connect as init does: blocking, and once. AF_VSOCK only in a kernel that a test booted."""
    kind, _, rest = address.partition(":")
    if kind == "unix":
        return connected(socket.socket(socket.AF_UNIX), rest)
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        if "User Mode Linux" not in file.read():
            raise RuntimeError("AF_VSOCK is connected only inside User Mode Linux")
    cid, _, port = rest.partition(":")
    return connected(socket.socket(socket.AF_VSOCK), (int(cid), int(port)))


def connected(sock: socket.socket, target: str | tuple[int, int]) -> socket.socket:
    try:
        sock.connect(target)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_in_time(address: str) -> socket.socket:
    """Connect, and end by SIGALRM if a call blocks for too long.

    A time-out of the socket would poll. Then connect() would not wait for room in the queue of a
    Unix socket, and send() could wait without a limit on AF_VSOCK.
    """
    signal.alarm(PATIENCE)
    return connect(address)


def say(**line: object) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def told_to_end(seconds: float = 0) -> bool:
    """Whether stdin has ended, within some seconds."""
    signal.alarm(0)
    return bool(select.select([0], [], [], seconds)[0])


def correct(address: str, pause: float = 0.01) -> None:
    """Send heartbeats as an enclave does, one after another: connect, send, wait for the echo."""
    while not told_to_end(pause):
        try:
            with connect_in_time(address) as sock:
                sock.sendall(HEARTBEAT)
                say(sent=True)
                echo = sock.recv(1)
        except OSError as error:
            say(failed=errno.errorcode[error.errno or 0])
            continue
        if echo == HEARTBEAT:
            say(echoed=True)
        else:
            say(failed=f"got {echo!r}")


def hold(address: str, number: float, greeting: bytes) -> None:
    """Open many connections, send something on each, read nothing, and close none."""
    held: list[socket.socket] = []
    while len(held) < number and not told_to_end():
        try:
            sock = connect_in_time(address)
        except ConnectionResetError:  # on AF_VSOCK: the queue is full
            continue
        held.append(sock)
        sock.send(greeting)
    say(goal=len(held))
    told_to_end(PATIENCE)


def silent(address: str, number: float) -> None:
    """Open connections that send nothing."""
    hold(address, number, b"")


def deaf(address: str, number: float) -> None:
    """Send heartbeats, and never read the echoes."""
    hold(address, number, HEARTBEAT)


def repeat(address: str, number: float, talk: Callable[[socket.socket], object]) -> None:
    """Connect, do something and close, again and again. The goal is a number of times."""
    done = 0
    while not told_to_end():
        try:
            with connect_in_time(address) as sock:
                talk(sock)
        except OSError:
            if not server_listens_on(address):
                return
        done += 1
        if done == number:
            say(goal=done)


def server_listens_on(address: str) -> bool:
    """Whether only one connection failed: the file of a Unix socket is removed with its server."""
    return not address.startswith("unix:") or os.path.exists(address.removeprefix("unix:"))


def churn(address: str, number: float) -> None:
    """Open and close as fast as possible."""
    repeat(address, number, lambda sock: None)


def wrong(address: str, number: float) -> None:
    """Send a wrong byte on each connection."""

    def talk(sock: socket.socket) -> None:
        sock.sendall(b"\0")
        sock.recv(1)

    repeat(address, number, talk)


def megabytes(address: str, number: float, first: float) -> None:
    """Send two megabytes that begin with a given byte, until the server closes."""
    repeat(address, number, lambda sock: sock.sendall(bytes([int(first)]) + BLOCK))


def main(role: str, address: str, *numbers: str) -> None:
    roles: dict[str, Callable[..., None]] = {
        each.__name__: each for each in (correct, silent, deaf, churn, wrong, megabytes)
    }
    roles[role](address, *map(float, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
