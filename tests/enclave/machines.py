# SPDX-License-Identifier: Apache-2.0
"""Guests, their vsock devices, and parents: processes of the tests, and their output.

Every wait has a limit. A process that a block has started is killed at its end, if it still runs.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from .parts import Parts

PATIENCE = 120.0  # seconds: a guest without KVM takes 4 to boot, and machines are busy
POLL = 0.02

NITROHB = ("-W", "error", "-m", "nitrohb")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and the time at which it was read, in seconds since 1970."""

    time: float
    text: str


class Words:
    """The lines that a process prints, as they arrive."""

    def __init__(self, who: str) -> None:
        self.lines: list[Line] = []
        self.ended = False
        self._who = who
        self._change = threading.Condition()

    def add(self, text: str) -> None:
        with self._change:
            self.lines.append(Line(time.time(), text))
            self._change.notify_all()

    def end(self) -> None:
        with self._change:
            self.ended = True
            self._change.notify_all()

    def hear(self, pipe: IO[bytes]) -> None:
        """Read a pipe, in a separate thread."""
        for line in pipe:
            self.add(line.decode("utf-8", "backslashreplace").rstrip("\r\n"))
        self.end()

    def await_line(self, pattern: str, nth: int = 1) -> Line:
        """Wait for the line that a pattern matches, or for the nth of them."""

        def found() -> Line | None:
            matching = (line for line in self.lines if re.search(pattern, line.text))
            return next(itertools.islice(matching, nth - 1, None), None)

        return self._await(found, f"a line like {pattern!r}")

    def await_end(self) -> list[Line]:
        """Wait for the end of the output."""
        return self._await(lambda: self.lines if self.ended else None, "the end")

    def _await(self, look: Callable[[], T | None], what: str) -> T:
        with self._change:
            done = self._change.wait_for(lambda: look() is not None or self.ended, PATIENCE)
            if (seen := look()) is not None:
                return seen
        why = "has ended" if done else "is silent"
        said = "\n".join(line.text for line in self.lines[-40:])
        raise AssertionError(f"{self._who} {why}, without {what}. It said:\n{said}")


class Events:
    """The output of a server: its events, as JSON, and messages."""

    out: Words

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events that it has printed so far, of all names or of some."""
        events = [json.loads(line.text) for line in list(self.out.lines) if is_event(line)]
        return [event for event in events if not names or event["event"] in names]

    def await_event(self, name: str, nth: int = 1, more: str = "") -> dict[str, Any]:
        """Wait for the first event of a name, or for the nth; ``more`` is a pattern behind it."""
        event: dict[str, Any] = json.loads(
            self.out.await_line(rf'"event": "{name}"{more}', nth).text
        )
        return event

    def await_peer(self, name: str, cid: int) -> dict[str, Any]:
        """Wait for an event of a name that concerns a peer."""
        return self.await_event(name, more=rf'.*"cid": {cid}\b')


def is_event(line: Line) -> bool:
    return line.text.startswith("{")


class Program:
    """A process, and its output: stdout and stderr together."""

    def __init__(self, *command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            env=None if env is None else os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.popen.stdout is not None
        self.words = Words(str(command[0]))
        self._ear = threading.Thread(target=self.words.hear, args=(self.popen.stdout,))
        self._ear.start()

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def ends(self) -> int:
        """Wait for its end, and return its exit code."""
        self.words.await_end()
        return self.popen.wait(PATIENCE)

    def await_start(self) -> None:
        """Wait until it is ready. Then the ``with`` block begins."""

    def __enter__(self) -> Self:
        try:
            self.await_start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.wait()
        self._ear.join()
        assert self.popen.stdout is not None
        self.popen.stdout.close()


class Server(Program, Events):
    """A server on this machine, for guests whose device connects to it."""

    def __init__(self, directory: Path, *args: str) -> None:
        options = ("serve", "--keep", "--format", "json", *args)
        super().__init__(sys.executable, *NITROHB, *options, cwd=directory)
        self.out = self.words
        self._listeners = args.count("-l")

    def await_start(self) -> None:
        self.await_event("listening", self._listeners)

    def notes(self) -> list[str]:
        """Its output without the events."""
        return [line.text for line in self.out.lines if not is_event(line)]


@dataclass(frozen=True, slots=True)
class Vm:
    """One guest of a device: its CID, and where its connections go."""

    cid: int
    route: str

    @property
    def socket(self) -> str:
        """Where QEMU finds the device; relative, since the path of a Unix socket is short."""
        return f"vhost{self.cid}.socket"

    def __str__(self) -> str:
        return f"guest-cid={self.cid},socket={self.socket},{self.route}"


def hybrid(cid: int) -> Vm:
    """A guest whose connections to CID 2 go to Unix sockets of the host."""
    return Vm(cid, f"uds-path=vm{cid}.vsock")


class Device(Program):
    """vhost-device-vsock, in a directory, for some guests. With ``uds-path`` they are siblings."""

    def __init__(
        self, parts: Parts, directory: Path, *vms: Vm, command: Sequence[str | Path] = ()
    ) -> None:
        options = itertools.chain.from_iterable(("--vm", str(vm)) for vm in vms)
        super().__init__(*(command or (parts.device,)), *options, cwd=directory)
        self._directory = directory
        self._vms = {vm.cid: vm for vm in vms}

    def prepare(self, cid: int) -> None:
        """Wait until it is ready for a guest, and has forgotten the one before.

        A packet for a guest whose driver does not run, such as the last words to one that has just
        powered off, ends the thread of that guest in vhost-device-vsock 0.3.0. It begins anew with
        each connection of a VMM: so this is one, and closes.
        """
        name = self._vms[cid].socket
        before = until(lambda: self._listener(name), "the device listens")
        with socket.socket(socket.AF_UNIX) as sock, directory_of(self._directory / name) as path:
            sock.connect(path)
        until(lambda: self._listener(name) - before, "the device listens again")

    def _listener(self, name: str) -> set[str]:
        """The inode of its socket that listens on a path, found without a connection to it."""
        listening = b"00010000"  # __SO_ACCEPTCON of linux/net.h
        # The names of other processes' sockets can be any bytes.
        lines = Path("/proc/net/unix").read_bytes().splitlines()
        wanted = [listening, name.encode()]
        inodes = {
            fields[6].decode()
            for line in lines
            if (fields := line.split())[3:4] + fields[7:] == wanted
        }
        return {inode for inode in inodes if f"socket:[{inode}]" in self._open_files()}

    def _open_files(self) -> set[str]:
        files = Path(f"/proc/{self.popen.pid}/fd")
        found = set[str]()
        for file in files.iterdir():
            with suppress(FileNotFoundError):  # it has just been closed
                found.add(os.readlink(file))
        return found


@contextmanager
def directory_of(path: Path) -> Generator[str]:
    """A short name of a path, however long its directory's is."""
    fd = os.open(path.parent, os.O_PATH)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def until(look: Callable[[], T], what: str) -> T:
    """Poll until a call returns something, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s: {what}"
        time.sleep(POLL)
    return seen


class Guest(Program):
    """A guest in QEMU, without KVM. Its output is that of its console."""

    def __init__(
        self,
        parts: Parts,
        directory: Path,
        vm: Vm,
        *,
        initramfs: Path | None = None,
        megabytes: int = 128,
        more: Sequence[str] = (),
        **arguments: str | int,
    ) -> None:
        # On a busy machine, a kernel can miss the timer tick that it waits for, and panics.
        machine = parts.machine
        append = [f"console={machine.console}", "quiet", "loglevel=3", "panic=-1", "no_timer_check"]
        append += [f"hb_{name}={value}" for name, value in arguments.items()]
        super().__init__(
            *(*machine.qemu, "-nodefaults", "-no-user-config", "-no-reboot", "-accel", "tcg"),
            *("-m", f"{megabytes}M", "-display", "none", "-serial", "stdio"),
            *("-object", f"memory-backend-memfd,id=mem,size={megabytes}M,share=on"),
            *("-chardev", f"socket,id=vsock,path={vm.socket}"),
            *("-device", "vhost-user-vsock-pci,chardev=vsock"),
            *("-kernel", parts.kernel, "-initrd", initramfs or parts.enclave),
            *("-append", " ".join(append)),
            *more,
            cwd=directory,
        )

    def outcome(self) -> str:
        """Wait until init is done and QEMU has ended. Return the outcome of the last connection."""
        self.words.await_line("^init: done")
        assert self.ends() == 0
        for line in self.words.lines:
            print(line.text)  # pytest shows it if the test fails
        return self.outcomes()[-1]

    def outcomes(self) -> list[str]:
        """The outcomes of its connections so far, such as ``boot: echoed``."""
        said = [re.fullmatch(r"init: (\w+: [\w-]+)", line.text) for line in self.words.lines]
        return [match[1] for match in said if match]


class Remote(Events):
    """A command that runs in a parent guest.

    Attributes:
        out: What it says on stdout.
        err: And on stderr.
    """

    def __init__(self, number: int, tell: Callable[..., None]) -> None:
        self.out = Words(f"command {number} in the parent")
        self.err = Words(f"command {number} in the parent")
        self.status: int | None = None
        self._looks: list[dict[str, int]] = []
        self._number = number
        self._tell = tell

    def take(self, message: dict[str, Any]) -> None:
        match message:
            case {"out": text}:
                self.out.add(text)
            case {"err": text}:
                self.err.add(text)
            case {"status": status}:
                self.status = status
                self.out.end()
                self.err.end()
            case _:
                self._looks.append(message)

    def send(self, number: int) -> None:
        self._tell(id=self._number, signal=number)

    def look(self) -> dict[str, int]:
        """The number of its open descriptors, and its memory in kilobytes."""
        before = len(self._looks)
        self._tell(id=self._number, look=True)
        return until(lambda: self._looks[before:], "the parent's answer")[0]

    def ends(self) -> int:
        """Wait for its end, and return its exit code."""
        self.err.await_end()
        assert self.status is not None
        return self.status


class Parent(Guest):
    """A guest with CID 3, in which nitrohb runs, like the instance that launches an enclave."""

    CID = 3

    def __init__(self, parts: Parts, directory: Path) -> None:
        control = "socket,id=control,path=control,server=on,wait=off"
        super().__init__(
            parts,
            directory,
            hybrid(self.CID),
            initramfs=parts.parent,
            megabytes=768,
            more=("-chardev", control, "-device", "pci-serial,chardev=control"),
            run="/parent",
        )
        self._control = directory / "control"
        self._commands: dict[int, Remote] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._ready = threading.Event()
        self._listener = threading.Thread(target=self._listen)

    def await_start(self) -> None:
        """Wait until it takes commands."""
        until(self._connects, "QEMU's socket for the parent")
        self._listener.start()
        self.words.await_line("^init: started")
        assert self._ready.wait(PATIENCE), f"the parent is silent: {self.words.lines}"

    def _connects(self) -> bool:
        # QEMU binds the socket, and listens a moment later.
        with (
            directory_of(self._control) as name,
            suppress(FileNotFoundError, ConnectionRefusedError),
        ):
            self._socket.connect(name)
            return True
        return False

    def _listen(self) -> None:
        with self._socket.makefile("rb") as lines:
            for text in lines:
                message = json.loads(text)
                if "ready" in message:
                    self._ready.set()
                else:
                    self._commands[message["id"]].take(message)

    def _tell(self, **what: object) -> None:
        self._socket.sendall(json.dumps(what).encode() + b"\n")

    def start(self, *argv: str, files: int = 1024) -> Remote:
        """Start Python in the guest with some arguments and a limit of descriptors."""
        number = len(self._commands)
        remote = self._commands[number] = Remote(number, self._tell)
        self._tell(id=number, argv=argv, files=files)
        return remote

    @contextmanager
    def nitrohb(self, *args: str, files: int = 1024) -> Generator[Remote]:
        """Run a server in the guest, which prints JSON. Kill it at the end, if it still runs."""
        remote = self.start(*NITROHB, "serve", "--format", "json", *args, files=files)
        try:
            remote.await_event("listening")
            yield remote
        finally:
            if remote.status is None:
                remote.send(signal.SIGKILL)
                remote.ends()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._listener.ident is not None:
            self._listener.join()
        self._socket.close()
