# SPDX-License-Identifier: Apache-2.0
"""boot_eif.py before it starts anything (tests/enclave has the rest), and the launchers."""

import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from .cli.process import started
from .support import child

EXAMPLES = Path(__file__).parents[1] / "examples"
BOOT_EIF = EXAMPLES / "boot_eif.py"
LAUNCHERS = ("launch.py", "launch_asyncio.py", "launch_trio.py")

# It boots an enclave, prints nothing, and goes on until stdin ends.
VMM = """\
import sys, trio
from nitrohb import send_heartbeat
trio.run(send_heartbeat, sys.argv[1])
sys.stdin.read()
sys.exit(7)
"""
# Its guest sends another byte.
WRONG = """\
import socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b"x")
if sys.argv[2:]:  # and ends
    sock.recv(1)
    sys.exit(3)
time.sleep(60)
"""
# Runs a launcher with a short default of max_age.
FORGETFUL = """import runpy, sys
import nitrohb
def shorten(server):
    wait = server.wait_heartbeat
    server.wait_heartbeat = lambda *args, max_age=0.1, **how: wait(*args, max_age=max_age, **how)
shorten(nitrohb.ThreadServer)
shorten(nitrohb.HeartbeatServer)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# It ends when its guest has the echo.
SHORT = """\
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b"\\xb7")
sock.recv(1)
os._exit(0)
"""
# It takes 0.5 s to end, and its guest sends nothing.
SLOW = 'trap "echo ending; sleep 0.5; exit" TERM; echo runs; while :; do sleep 0.1; done'
# Its guest sends nothing.
SILENT = "echo runs; exec tail -f /dev/null"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty image for x86_64: a header, whose last four bytes are the checksum."""
    image = tmp_path / "x.eif"
    header = b".eif".ljust(544, b"\0")
    image.write_bytes(header + zlib.crc32(header).to_bytes(4, "big"))
    return image


def refused(*args: str | Path) -> tuple[int, str]:
    """The exit code of the program, and its last line."""
    command = [sys.executable, BOOT_EIF, *args]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_file_that_is_not_an_image_is_refused(tmp_path: Path, image: Path) -> None:
    missing, damaged = tmp_path / "missing", tmp_path / "damaged"
    damaged.write_bytes(image.read_bytes() + b"x")
    for path, why in {
        missing: f"[Errno 2] No such file or directory: '{missing}'",
        BOOT_EIF: f"{BOOT_EIF} is not an EIF",
        damaged: f"{damaged} is damaged: its checksum is wrong",
    }.items():
        assert refused(path) == (2, f"boot_eif.py: error: {why}")


def test_a_time_limit_of_no_time_is_refused(image: Path) -> None:
    code, why = refused("--timeout", "0", image)
    assert code == 2
    assert "--timeout" in why


def test_a_missing_device_is_reported(tmp_path: Path, image: Path) -> None:
    why = f"{tmp_path} is not a socket: start vhost-device-vsock first"
    assert refused("--vhost-user", tmp_path, image) == (2, f"boot_eif.py: error: {why}")


def test_a_missing_qemu_is_reported(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as device:
        device.bind("vhost")
        code, why = refused("--vhost-user", "vhost", image)
    assert code == 1
    assert "apt-get install" in why
    assert "qemu-system-x86" in why


# As docs/how-to/launcher.md says: several VMMs, each in a task. Here each address has two boots.
SEVERAL = """
import asyncio, sys
from functools import partial
import nitrohb
from launch_asyncio import run_vmm

async def start(server, address, *commands):
    server.listen(address)
    wait = partial(server.wait_heartbeat, address=address)
    for command in commands:
        try:
            status = await run_vmm(wait, 60, command)
            print(f"{address}: {status}", flush=True)
        except nitrohb.NitrohbError as error:
            print(f"{address}: {error}", flush=True)

async def main(send, *addresses):
    with nitrohb.serve_in_thread("none", keep=True) as server:
        async with asyncio.TaskGroup() as tasks:
            for path in addresses:
                twice = f"{send} {path} && {send} {path} && exit 7"
                commands = ["sh", "-c", twice], ["true"]
                tasks.create_task(start(server, f"unix:{path}", *commands))

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_asyncio_launcher_can_start_several_vmms_one_after_another(tmp_path: Path) -> None:
    """The second heartbeat of a boot does not count for the next boot."""
    paths = [str(tmp_path / name) for name in ("a", "b")]
    send = f"{sys.executable} -ISc '{SHORT}'"
    command = [sys.executable, "-c", SEVERAL, send, *paths]
    env = os.environ | {"PYTHONPATH": str(EXAMPLES)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    for path in paths:
        lines = [line for line in done.stdout.splitlines() if path in line]
        assert [line.split(":")[0] for line in lines] == ["booted", "unix", "unix"]
        assert lines[1].endswith(": 7")
        assert "ended with status 0 before its heartbeat" in lines[2]
    assert list(tmp_path.iterdir()) == []


def launching(name: str, path: Path, seconds: str, *vmm: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / name), f"unix:{path}", seconds, *vmm]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_says_that_the_enclave_has_booted_and_waits_for_its_vmm(
    name: str, tmp_path: Path
) -> None:
    sock = tmp_path / "s"
    command = launching(name, sock, "60", sys.executable, "-c", VMM, f"unix:{sock}")
    with started(command=tuple(command), stdin=subprocess.PIPE) as launcher:
        line = launcher.line()
        says = f"launch: unix:{sock}: the VMM ended with status 7\n" if "trio" in name else ""
        assert (launcher.end(), line[:7]) == ((7, "", says), "booted:")
    assert not sock.exists()


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize(
    ("seconds", "vmm", "why"),
    [
        ("0.5", ("tail", "-f", "/dev/null"), "within 0.5 s"),
        ("60", ("sh", "-c", "exit 3"), "the VMM ended with status 3 before its heartbeat"),
        ("60", ("/no/such/vmm",), "/no/such/vmm"),
        ("2", (sys.executable, "-c", WRONG, "{sock}"), "2 s: 1 sent 0x78 instead of 0xB7"),
        (
            "60",
            (sys.executable, "-c", WRONG, "{sock}", "end"),
            "before its heartbeat: 1 sent 0x78",
        ),
    ],
)
def test_a_launcher_that_fails_says_why_and_leaves_nothing(
    name: str, seconds: str, vmm: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    sock = tmp_path / "s"
    python, *command = launching(name, sock, seconds, *(each.format(sock=sock) for each in vmm))
    command = [python, "-c", FORGETFUL, *command]
    with child(command, stderr=subprocess.PIPE) as launcher:
        # To the end of stderr, so that the VMM has ended, too.
        _, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1
    *_, last = [it for it in err.decode().splitlines() if it.startswith("launch: ")]
    assert why in last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_a_signal_ends_a_launcher_and_its_vmm(
    name: str,
    number: signal.Signals,
    boots: bool,
    send: Callable[[int, int], None],
    tmp_path: Path,
) -> None:
    """With killpg(), like Ctrl-C and systemd, the VMM can end first."""
    sock = tmp_path / "s"
    program = (sys.executable, "-c", VMM, f"unix:{sock}") if boots else ("sh", "-c", SILENT)
    command = launching(name, sock, "60", *program)
    with started(command=tuple(command), stdin=subprocess.PIPE) as launcher:
        launcher.line()
        send(launcher.popen.pid, number)
        # To the end of stdout and stderr, so that the VMM has ended, too.
        code, *printed = launcher.end()
    assert code == 128 + number
    assert send is os.killpg or printed == ["", ""]  # a VMM can say that it was interrupted
    assert not sock.exists()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_vmm_that_ends_just_after_its_heartbeat_has_booted(name: str, tmp_path: Path) -> None:
    sock = tmp_path / "s"
    for _ in range(4):  # a launcher can see its end before its heartbeat
        command = launching(name, sock, "60", sys.executable, "-ISc", SHORT, str(sock))
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout[:7], done.stderr) == (0, "booted:", "")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_signal_that_ends_a_vmm_decides_the_exit_code(name: str, tmp_path: Path) -> None:
    killed = SHORT.replace("os._exit(0)", "os.kill(os.getpid(), 9)")
    sock = tmp_path / "s"
    command = launching(name, sock, "60", sys.executable, "-ISc", killed, str(sock))
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 128 + 9


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_second_signal_does_not_leave_a_slow_vmm_running(name: str, tmp_path: Path) -> None:
    command = launching(name, tmp_path / "s", "60", "sh", "-c", SLOW)
    with started(command=tuple(command)) as launcher:
        launcher.line()
        launcher.popen.send_signal(signal.SIGTERM)
        assert launcher.line() == "ending\n"
        launcher.popen.send_signal(signal.SIGINT)
        # To the end of stdout and stderr, so that the VMM has ended, too.
        assert launcher.end() == (128 + signal.SIGTERM, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_signal_after_the_time_limit_does_not_leave_a_slow_vmm_running(
    name: str, tmp_path: Path
) -> None:
    command = launching(name, tmp_path / "s", "0.5", "sh", "-c", SLOW)
    with started(command=tuple(command)) as launcher:
        assert [launcher.line(), launcher.line()] == ["runs\n", "ending\n"]
        launcher.popen.send_signal(signal.SIGTERM)
        # To the end of stdout and stderr, so that the VMM has ended, too.
        code, out, err = launcher.end()
    if name == "launch_asyncio.py":  # the cancellation replaces the error
        assert (code, out, err) == (128 + signal.SIGTERM, "", "")
    else:
        assert (code, out) == (1, "")
        assert "no heartbeat" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("args", [(), ("unix:s", "two", "true"), ("unix:s", "2")])
def test_a_mistake_in_the_arguments_is_explained(name: str, args: tuple[str, ...]) -> None:
    command = [sys.executable, str(EXAMPLES / name), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.startswith("usage: ")) == (2, True)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_that_cannot_listen_starts_no_vmm(name: str, tmp_path: Path) -> None:
    command = launching(name, tmp_path / "no/s", "1", "touch", str(tmp_path / "started"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    who = f"launch: unix:{tmp_path}/no/s" if "trio" in name else "launch"
    assert done.stderr.startswith(f"{who}: cannot listen on unix:{tmp_path}/no/s: ")
    assert list(tmp_path.iterdir()) == []
