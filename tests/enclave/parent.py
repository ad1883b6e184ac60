# SPDX-License-Identifier: Apache-2.0
"""The first process of a parent guest: it runs commands for the tests, over a serial line.

Lines of JSON come in and go out. In: ``{"id": 1, "argv": [...], "files": 1024}`` starts a command,
``{"id": 1, "signal": 9}`` sends it a signal, ``{"id": 1, "look": true}`` asks for its size. Out:
``{"id": 1, "out": "a line"}``, the same with ``err``, ``{"id": 1, "status": 0}`` when it has ended,
``{"id": 1, "descriptors": 9, "kilobytes": 30000}`` as the answer to ``look``.
"""

import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import tty
from pathlib import Path
from typing import IO, Any

LINE = "/dev/ttyS1" if os.uname().machine == "x86_64" else "/dev/ttyS0"
ENVIRONMENT = {
    "PATH": "/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONPATH": "/nitrohb",
    "PYTHONUNBUFFERED": "1",
}
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41


class Line:
    """The serial line."""

    def __init__(self) -> None:
        fd = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(fd)
        self.requests = os.fdopen(os.dup(fd), "rb")
        self._fd = fd
        self._lock = threading.Lock()

    def tell(self, **what: object) -> None:
        data = json.dumps(what).encode() + b"\n"
        with self._lock:
            while data:
                data = data[os.write(self._fd, data) :]


class Command:
    """A command that runs."""

    def __init__(self, line: Line, number: int, argv: list[str], files: int) -> None:
        self._line = line
        self._number = number
        self._popen = subprocess.Popen(
            [sys.executable, *argv],
            env=ENVIRONMENT,
            cwd="/tmp",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
        )
        copiers = [
            threading.Thread(target=self._copy, args=("out", self._popen.stdout)),
            threading.Thread(target=self._copy, args=("err", self._popen.stderr)),
        ]
        for copier in copiers:
            copier.start()
        threading.Thread(target=self._await, args=(copiers,)).start()

    def _copy(self, name: str, pipe: IO[bytes]) -> None:
        for text in pipe:
            self._line.tell(**{"id": self._number, name: text.decode().rstrip("\n")})

    def _await(self, copiers: list[threading.Thread]) -> None:
        for copier in copiers:
            copier.join()
        self._line.tell(id=self._number, status=self._popen.wait())

    def send(self, number: int) -> None:
        self._popen.send_signal(number)

    def look(self) -> None:
        process = Path(f"/proc/{self._popen.pid}")
        status = dict(each.split(":", 1) for each in (process / "status").read_text().splitlines())
        self._line.tell(
            id=self._number,
            descriptors=len(os.listdir(process / "fd")),
            kilobytes=int(status["VmRSS"].split()[0]),
        )


def main() -> None:
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))
    line = Line()
    commands: dict[int, Command] = {}
    line.tell(ready=True)
    for text in line.requests:
        request: dict[str, Any] = json.loads(text)
        number = request["id"]
        if "argv" in request:
            commands[number] = Command(line, number, request["argv"], request["files"])
        elif "signal" in request:
            commands[number].send(request["signal"])
        else:
            commands[number].look()


main()
