# SPDX-License-Identifier: Apache-2.0
"""The launcher is safe on a developer's machine: its exit codes are right, and nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.process import PATIENCE, read_until, wait_for
from tests.support import child

from . import launcher

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

LAUNCHER = [sys.executable, launcher.__file__]
GUEST_INIT = Path(launcher.__file__).with_name("guest_init.py")

ARGUMENTS = ["two words", 'it\'s "quoted" $HOME \\', "line\nbreak", "", "--", "é", "\udcff"]
GREETING = "two words\nand = signs"

# An AF_VSOCK socket must never be connected on the host, so the guest is asserted first.
FACTS = """
import json, os, signal, socket, sys
assert "User Mode Linux" in open("/proc/cpuinfo").read()

def echo():
    with socket.socket(socket.AF_VSOCK) as listener, socket.socket(socket.AF_VSOCK) as client:
        listener.bind((1, socket.VMADDR_PORT_ANY))
        listener.listen()
        client.connect(listener.getsockname())
        client.sendall(b"heart")
        server, _ = listener.accept()
        with server:
            server.sendall(server.recv(5) + b"beat")
        return client.recv(64).decode()

print(json.dumps({
    "arguments": sys.argv[1:],
    "cwd": os.getcwd(),
    "echo": echo(),
    "env": dict(os.environ),
    "private": [os.listdir(os.environ[name]) for name in ("HOME", "TMPDIR")],
    "stdin": sys.stdin.read(),
    "terminals": [fd for fd in range(3) if os.isatty(fd)],
}))
os.kill(os.getpid(), signal.SIGTERM)
"""

RUN_ON = ("sh", "-c", "echo ready; sleep 1000")

# Shows by its growth whether the guest is alive, natively or not.
TICK = """
import sys
print("ready", flush=True)
while True:
    with open(sys.argv[1], "ab") as file:
        file.write(b".")
"""


def launch(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """Run the launcher to its end."""
    return subprocess.run(
        [*LAUNCHER, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | options,
    )


def processes() -> Iterator[tuple[int, str, int]]:
    """Yield every process's id, state and parent."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = path.read_text("ascii", "replace").rpartition(")")[2].split()
            yield int(path.parent.name), fields[0], int(fields[1])


def namespace_members(namespace: str) -> list[int]:
    """List the processes of a PID namespace: whatever they call themselves, none can leave it.

    Zombies do not count: they run nothing, and wait for the host's init, which may take its time.
    """
    found: list[int] = []
    for pid, state, _ in processes():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if state != "Z" and os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                found.append(pid)
    return found


@dataclass
class Guest:
    """A guest that a launcher process of its own has booted, seen from the host."""

    launcher: subprocess.Popen[bytes]
    work_parent: Path
    main: int = 0
    namespace: str = ""

    def identify(self) -> None:
        """Wait for UML's main process, below unshare and the namespace's shell."""
        wait_for(self._has_main)
        assert self.main in namespace_members(self.namespace)

    def is_ready(self) -> None:
        """Wait for the first line of a command that says so."""
        assert self.launcher.stdout is not None
        assert read_until(self.launcher.stdout.fileno(), lambda got: b"\n" in got) == "ready\n"

    def _has_main(self) -> bool:
        line = [self.launcher.pid]
        while below := [pid for pid, _, parent in processes() if parent == line[-1]]:
            line.append(below[0])
        # A compiler, which the launcher may start, has no namespace of its own.
        with contextlib.suppress(IndexError, FileNotFoundError, ProcessLookupError):
            self.main, self.namespace = line[3], os.readlink(f"/proc/{line[3]}/ns/pid")
            return self.namespace != os.readlink("/proc/self/ns/pid")
        return False

    def leaves(self, status: int) -> None:
        """Wait for the launcher's end: no process and no file is left."""
        assert self.launcher.wait(PATIENCE) == status
        wait_for(lambda: not namespace_members(self.namespace))
        if status >= 0:  # nobody is left to remove the files of a killed launcher
            assert list(self.work_parent.iterdir()) == []


@contextmanager
def guest(*command: str, timeout: str = "60") -> Generator[Guest]:
    """Start the launcher, and wait for its guest."""
    # Not pytest's tmp_path, whose length would send the launcher elsewhere.
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as parent,
        child(
            [*LAUNCHER, "--timeout", timeout, "--", *command],
            env=os.environ | {"TMPDIR": parent},
            stdout=subprocess.PIPE,
        ) as process,
    ):
        running = Guest(process, Path(parent))
        running.identify()
        yield running


def test_a_command_gets_what_was_given_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = launch(f"--env=GREETING={GREETING}", "--", sys.executable, "-c", FACTS, *ARGUMENTS)
    assert done.returncode == 128 + signal.SIGTERM, done.stdout
    assert json.loads(done.stdout) == {
        "arguments": ARGUMENTS,
        "cwd": str(tmp_path),
        "echo": "heartbeat",
        "env": {
            "GREETING": GREETING,
            "HOME": "/run/home",
            "LANG": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": "/run/tmp",
        },
        "private": [[], []],
        "stdin": "",
        "terminals": [],
    }


def test_a_command_that_does_not_exist() -> None:
    done = launch("--", "no-such-command")
    assert (done.returncode, "no-such-command" in done.stdout) == (97, True)


def test_a_command_that_takes_too_long() -> None:
    with guest("sleep", "1000", timeout="3") as running:
        running.leaves(124)


def test_a_launcher_that_gets_a_signal() -> None:
    with guest(*RUN_ON) as running:
        running.is_ready()
        assert len(list(running.work_parent.iterdir())) == 1
        running.launcher.terminate()
        running.leaves(128 + signal.SIGTERM)


def test_a_launcher_that_is_killed() -> None:
    with guest(*RUN_ON) as running:
        running.is_ready()
        running.launcher.kill()
        running.leaves(-signal.SIGKILL)


def test_a_kernel_that_is_killed(tmp_path: Path) -> None:
    """UML's guest processes would go on natively: this one would go on writing the file."""
    ticks = tmp_path / "ticks"
    with guest(sys.executable, "-c", TICK, str(ticks)) as running:
        running.is_ready()
        wait_for(lambda: ticks.exists() and ticks.stat().st_size > 10)
        os.kill(running.main, signal.SIGKILL)
        running.leaves(125)
        size = ticks.stat().st_size
        assert ticks.stat().st_size == size


@pytest.mark.parametrize("namespace", [False, True])
def test_init_refuses_to_run_on_the_host(namespace: bool, tmp_path: Path) -> None:
    """Neither as it is nor as pid 1; a mount namespace, too, in case that it did not refuse."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    unshare = ["unshare", *user, "--pid", "--mount", "--fork"] if namespace else []
    done = subprocess.run([*unshare, sys.executable, GUEST_INIT, tmp_path], stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.startswith(b"refused")) == (96, True)


def test_without_a_kernel(tmp_path: Path) -> None:
    done = launch("--", "true", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (125, f"{launcher.MISSING}\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--modules", "none_such"], ["--mem", "much"], ["--env", "NAME"]],
    ids=str,
)
def test_wrong_arguments(arguments: list[str]) -> None:
    command = ["--", "true"] if arguments else []
    assert launch(*arguments, *command).returncode == 2


def test_this_machine_is_not_a_guest() -> None:
    assert not launcher.inside()
