# SPDX-License-Identifier: Apache-2.0
"""The clients: one honest enclave, and those who flood. A program of its own, that starts quickly.

    python -IS clients.py ROLE ADDRESS [NUMBER ...]

It prints JSON lines: ``goal`` once it has done what it was asked for; the honest enclave prints
``sent`` when it has sent its byte, then ``echoed`` or ``failed``. Then it goes on until its stdin
ends, so that none outlives its parent.
A server that lets it wait for too long lets it die of SIGALRM.
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
PATIENCE = 60  # seconds that talking to the server may block
BLOCK = bytes(2 << 20)


def connect(address: str) -> socket.socket:
    """Connect as init does: blocking, and only once; AF_VSOCK only in a kernel that we booted."""
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
    """Connect, and die if talking to the server takes too long.

    That is no time-out of the socket, which would poll: then connect() would not wait for room in
    the queue of a Unix socket, and send() might wait for ever on AF_VSOCK.
    """
    signal.alarm(PATIENCE)
    return connect(address)


def say(**line: object) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def told_to_end(seconds: float = 0) -> bool:
    """Whether stdin has ended, within some seconds."""
    signal.alarm(0)
    return bool(select.select([0], [], [], seconds)[0])


def honest(address: str, pause: float = 0.01) -> None:
    """Beat again and again, each time as an enclave that boots: connect, send, await the echo."""
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
    """Open many connections, send something on each, read nothing, close none."""
    held: list[socket.socket] = []
    while len(held) < number and not told_to_end():
        try:
            sock = connect_in_time(address)
        except ConnectionResetError:  # AF_VSOCK's way to say that the queue is full
            continue
        held.append(sock)
        sock.send(greeting)
    say(goal=len(held))
    told_to_end(PATIENCE)


def silent(address: str, number: float) -> None:
    """Connections that say nothing."""
    hold(address, number, b"")


def deaf(address: str, number: float) -> None:
    """Heartbeats whose echo is never read."""
    hold(address, number, HEARTBEAT)


def repeat(address: str, number: float, talk: Callable[[socket.socket], object]) -> None:
    """Connect, talk and close, for ever, whatever becomes of it; the goal is a number of times."""
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
    """Whether a failure was that of one connection: a Unix socket's file goes with its server."""
    return not address.startswith("unix:") or os.path.exists(address.removeprefix("unix:"))


def churn(address: str, number: float) -> None:
    """Open and close as fast as it goes."""
    repeat(address, number, lambda sock: None)


def wrong(address: str, number: float) -> None:
    """A wrong byte each time."""

    def talk(sock: socket.socket) -> None:
        sock.sendall(b"\0")
        sock.recv(1)

    repeat(address, number, talk)


def megabytes(address: str, number: float, first: float) -> None:
    """Send two megabytes, which begin with a byte of one's choice, to the end or until refused."""
    repeat(address, number, lambda sock: sock.sendall(bytes([int(first)]) + BLOCK))


def main(role: str, address: str, *numbers: str) -> None:
    roles: dict[str, Callable[..., None]] = {
        each.__name__: each for each in (honest, silent, deaf, churn, wrong, megabytes)
    }
    roles[role](address, *map(float, numbers))


if __name__ == "__main__":
    main(*sys.argv[1:])
