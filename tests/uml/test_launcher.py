# SPDX-License-Identifier: Apache-2.0
"""The launcher keeps its promises: what goes in, what comes out, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import launcher

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

LAUNCHER = Path(launcher.__file__)
GUEST_INIT = LAUNCHER.with_name("guest_init.py")
PATIENCE_SECONDS = 10.0

IN_GUEST = launcher.inside()
needs_uml = pytest.mark.skipif(
    IN_GUEST or launcher.find_kernel() is None,
    reason="boots a guest, and is in one already" if IN_GUEST else launcher.MISSING,
)

ARGUMENTS = ["two words", 'it\'s "quoted" $HOME \\', "line\nbreak", "", "--", "é", "\udcff"]
GREETING = "two words\nand = signs"

# An AF_VSOCK socket must never be connected on the host, so the guest is asserted first.
FACTS = """
import json, os, socket, sys
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
    "init": os.getppid(),
    "private": [os.listdir(os.environ[name]) for name in ("HOME", "TMPDIR")],
    "stdin": sys.stdin.read(),
    "terminals": [fd for fd in range(3) if os.isatty(fd)],
    "uid": os.getuid(),
}))
"""

BIND_LOCAL_CID = """
import errno, socket
try:
    socket.socket(socket.AF_VSOCK).bind((1, socket.VMADDR_PORT_ANY))
except OSError as error:
    print(errno.errorcode[error.errno])
"""

# Shows by its growth whether the guest is alive, natively or not.
TICK = """
import sys
print("ready", flush=True)
while True:
    with open(sys.argv[1], "ab") as file:
        file.write(b".")
"""


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", script, *arguments]


def eventually(condition: Callable[[], bool]) -> bool:
    """Poll until the condition holds; return False when patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def processes() -> Iterator[tuple[int, str, int]]:
    """Yield every process's id, state and parent."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("ascii", "replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(path.parent.name), fields[0], int(fields[1])


def children(pid: int) -> list[int]:
    return [child for child, _, parent in processes() if parent == pid]


def namespace_members(namespace: str) -> list[int]:
    """List the processes of a PID namespace: whatever they call themselves, none can leave it.

    Zombies do not count: they run nothing, and wait for the host's init, which may take its time.
    """
    found: list[int] = []
    for pid, state, _ in processes():
        try:
            if state != "Z" and os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


@dataclass
class Guest:
    """A guest that a launcher process of its own has booted, seen from the host."""

    launcher: subprocess.Popen[bytes]
    work_parent: Path
    main: int = 0
    namespace: str = ""

    def identify(self) -> None:
        """Find UML's main process, below unshare and the namespace's shell, once it is there."""

        def descend() -> bool:
            line = [self.launcher.pid]
            while below := children(line[-1]):
                line.append(below[0])
            return len(line) >= 4 and self._is_main(line[3])

        assert eventually(descend)
        assert self.main in namespace_members(self.namespace)

    def _is_main(self, pid: int) -> bool:
        """Tell whether it has a namespace of its own, and is no part of a compiler."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            self.main, self.namespace = pid, os.readlink(f"/proc/{pid}/ns/pid")
            return self.namespace != os.readlink("/proc/self/ns/pid")
        return False

    def wait_until_ready(self) -> None:
        assert self.launcher.stdout is not None
        assert self.launcher.stdout.readline() == b"ready\n"
        self.identify()

    def is_gone(self) -> bool:
        return eventually(lambda: not namespace_members(self.namespace))

    def work_directories(self) -> list[Path]:
        return list(self.work_parent.iterdir())


def keep_signals(*_numbers: signal.Signals) -> None:
    """Stands for what would make signals end this process, which pytest sees to itself."""


@contextmanager
def guest(command: list[str], *options: str) -> Generator[Guest]:
    """Start the launcher as a script; with it ends, whatever happens, the guest."""
    # Not pytest's tmp_path, whose length would send the launcher elsewhere.
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as parent,
        subprocess.Popen(
            [sys.executable, str(LAUNCHER), "--timeout", "60", *options, "--", *command],
            env={**os.environ, "TMPDIR": parent},
            stdout=subprocess.PIPE,
        ) as process,
    ):
        try:
            yield Guest(process, Path(parent))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a directory").resolve()


@pytest.fixture(scope="module")
def facts(directory: Path) -> dict[str, Any]:
    """What one command saw in a guest with the default options."""
    result = launcher.capture(
        python(FACTS, *ARGUMENTS), cwd=directory, env={"GREETING": GREETING}, timeout=60
    )
    assert result.status == 0, result.output
    seen: dict[str, Any] = json.loads(result.output)
    return seen


@needs_uml
class TestCommand:
    def test_arguments_arrive_intact(self, facts: dict[str, Any]) -> None:
        assert facts["arguments"] == ARGUMENTS

    def test_runs_in_the_directory(self, facts: dict[str, Any], directory: Path) -> None:
        assert facts["cwd"] == str(directory)

    def test_environment_is_clean(self, facts: dict[str, Any]) -> None:
        assert facts["env"] == {
            "GREETING": GREETING,
            "HOME": "/run/home",
            "LANG": "C.UTF-8",
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": "/run/tmp",
        }
        assert facts["private"] == [[], []]

    def test_has_neither_terminal_nor_input(self, facts: dict[str, Any]) -> None:
        assert (facts["terminals"], facts["stdin"]) == ([], "")

    def test_is_a_child_of_init_and_root(self, facts: dict[str, Any]) -> None:
        assert (facts["init"], facts["uid"]) == (1, 0)

    def test_af_vsock_loops_back(self, facts: dict[str, Any]) -> None:
        assert facts["echo"] == "heartbeat"

    def test_output_and_status_pass_unaltered(self) -> None:
        every_byte = "import os; [os.write(1, bytes(range(256))) for _ in range(300)]; exit(7)"
        output = io.BytesIO()
        assert launcher.run(python(every_byte), output=output, timeout=60) == 7
        assert output.getvalue() == bytes(range(256)) * 300

    def test_signal_becomes_128_plus_n(self) -> None:
        """Tries another user and standard error on the way."""
        result = launcher.capture(
            ["sh", "-c", "id -u; printf 'error\\377' >&2; kill -TERM $$"], uid=1234, timeout=60
        )
        assert result == launcher.Result(128 + signal.SIGTERM, "1234\nerror\\xff")

    def test_that_does_not_exist_is_97(self) -> None:
        result = launcher.capture(["no-such-command"], timeout=60)
        assert result.status == launcher.CANNOT_START
        assert "no-such-command" in result.output


@needs_uml
class TestModules:
    def test_without_loopback_there_is_no_local_cid(self) -> None:
        result = launcher.capture(python(BIND_LOCAL_CID), modules=launcher.LOOPBACK[:2], timeout=60)
        assert result == launcher.Result(0, "EADDRNOTAVAIL\n")

    def test_without_any_there_is_no_vsock(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        """Goes through the command line, to try its way of saying `none`."""
        command = [*python(BIND_LOCAL_CID), "--", "x"]
        line = [sys.executable, str(LAUNCHER), "--timeout", "60", "--modules", "", "--", *command]
        assert subprocess.run(line, check=False).returncode == 0
        assert capfdbinary.readouterr().out == b"EAFNOSUPPORT\n"


@needs_uml
class TestNothingStaysBehind:
    def test_past_the_time_out(self) -> None:
        with guest(["sleep", "1000"], "--timeout", "5") as running:
            running.identify()
            assert running.launcher.wait() == launcher.TIMED_OUT
            assert running.is_gone()
            assert running.work_directories() == []

    @pytest.mark.parametrize(
        ("number", "status"),
        [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 128 + signal.SIGINT)],
    )
    def test_of_a_launcher_told_to_end(self, number: signal.Signals, status: int) -> None:
        with guest(["sh", "-c", "echo ready; sleep 1000"]) as running:
            running.wait_until_ready()
            assert len(running.work_directories()) == 1
            running.launcher.send_signal(number)
            assert running.launcher.wait() == status
            assert running.is_gone()
            assert running.work_directories() == []

    def test_of_a_killed_launcher(self) -> None:
        """No process stays; the work directory has to, since nobody is left to remove it."""
        with guest(["sleep", "1000"]) as running:
            running.identify()
            running.launcher.kill()
            running.launcher.wait()
            assert running.is_gone()

    def test_of_a_killed_kernel(self, tmp_path: Path) -> None:
        """UML's guest processes would go on natively: this one would go on writing the file."""
        ticks = tmp_path / "ticks"
        with guest(python(TICK, str(ticks))) as running:
            running.wait_until_ready()
            assert eventually(lambda: ticks.exists() and ticks.stat().st_size > 10)
            os.kill(running.main, signal.SIGKILL)
            assert running.launcher.wait() == launcher.KERNEL_DIED
            assert running.is_gone()
            size = ticks.stat().st_size
            assert running.work_directories() == []
            assert ticks.stat().st_size == size


class TestRefusals:
    def test_init_on_the_host(self, tmp_path: Path) -> None:
        answer = subprocess.run(
            [sys.executable, GUEST_INIT, tmp_path], capture_output=True, check=False
        )
        assert answer.returncode == 96
        assert answer.stderr.startswith(b"refused")

    @needs_uml
    def test_init_as_pid_1_of_a_namespace(self, tmp_path: Path) -> None:
        """A mount namespace too, in case it did not refuse."""
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        answer = subprocess.run(
            ["unshare", *user, "--pid", "--mount", "--fork", sys.executable, GUEST_INIT, tmp_path],
            capture_output=True,
            check=False,
        )
        assert answer.returncode == 96
        assert answer.stderr.startswith(b"refused")

    def test_without_a_kernel(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert launcher.find_kernel() is None
        with pytest.raises(launcher.KernelMissingError, match=re.escape(launcher.MISSING)):
            launcher.run(["true"])
        line = [sys.executable, str(LAUNCHER), "--", "true"]
        answer = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (answer.returncode, answer.stderr) == (125, f"{launcher.MISSING}\n")

    @needs_uml
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--"],
            ["--", ""],
            ["--", "a\0b"],
            ["--modules", "no_such_module", "--", "true"],
            ["--mem", "much", "--", "true"],
            ["--timeout", "0", "--", "true"],
            ["--timeout", "nan", "--", "true"],
            ["--env", "NAME", "--", "true"],
        ],
        ids=str,
    )
    def test_of_unusable_arguments(
        self, arguments: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launcher, "_exit_on_signals", keep_signals)
        with pytest.raises(SystemExit) as stop:
            launcher.main(arguments)
        assert stop.value.code == 2


def test_missing_says_what_to_do() -> None:
    assert "apt-get install --no-install-recommends user-mode-linux" in launcher.MISSING
    assert "nox -s vsock" in launcher.MISSING


@needs_uml
def test_inside_is_false_on_the_host() -> None:
    assert not launcher.inside()
