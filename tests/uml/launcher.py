# SPDX-License-Identifier: Apache-2.0
"""Run a command under User Mode Linux (UML), where AF_VSOCK really works over CID 1.

    python tests/uml/launcher.py [OPTION ...] -- COMMAND [ARG ...]

UML is a kernel that runs as an ordinary process: no KVM, no privilege, no disk image. The guest's
root is this machine's own tree, over hostfs, so the command finds the same files and programs, and
what it writes it really writes, with the rights of whoever started the launcher. The exceptions
are /run, /proc, /sys and /dev, which are the guest's own.

The command runs in the caller's directory, without a terminal and without input, in a clean
environment: the caller's PATH; HOME and TMPDIR, empty directories in the guest's memory; LANG; and
what was passed explicitly. Standard output and error arrive together. A command gets no notice of
a time-out or of a signal to the launcher: its whole guest is killed.

How a guest is kept from harm: if only UML's main process dies, the guest's processes go on
*natively*, as processes of the host. So each guest lives in a PID namespace of its own, whose
death kills all that is in it, and the namespace dies with the kernel (its first process waits for
just that), with the launcher (parent-death signals) and with the time-out. What remains is the
case that something kills just the main process: then the guest runs on for some milliseconds.

Exit status: the command's own, 128+n if signal n killed it, or one of

    97   the command could not be started
    124  the time was over
    125  the kernel died, or could not be started

Needs Python 3.11, util-linux and Debian's package user-mode-linux; on a processor with AMX also a
C compiler, see xstate.c. For an ordinary user the machine must allow unprivileged user namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType
    from typing import NoReturn

MISSING = (
    "these tests need a real AF_VSOCK, which User Mode Linux gives: install Debian's package with "
    "`apt-get install --no-install-recommends user-mode-linux gcc libc6-dev`, "
    "then run `nox -s vsock`"
)

TIMED_OUT = 124
KERNEL_DIED = 125

LOOPBACK = ("vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback")
"""The modules of a working AF_VSOCK, in the order in which they must be loaded."""

_TIMEOUT = 300.0
_MEM = "512M"
_INIT = Path(__file__).resolve().with_name("guest_init.py")
_XSTATE = Path(__file__).resolve().with_name("xstate.c")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

# A shell stands between the namespace and the kernel, because a UML kernel that is itself pid 1
# hangs when it panics; `exit` keeps the shell from exec'ing the kernel in its own place.
_SHELL = ("/bin/sh", "-c", 'ulimit -c 0; "$@"; exit $?', "sh")


class KernelMissingError(RuntimeError):
    """There is no UML kernel that runs on this machine; the message says what to do."""

    def __init__(self, why: str = "") -> None:
        super().__init__(": ".join(filter(None, (MISSING, why))))


@dataclass(frozen=True, slots=True)
class Kernel:
    """A UML kernel: its program, and the directory that holds its vsock modules."""

    executable: Path
    modules: Path


class Options(TypedDict, total=False):
    """Keyword arguments of `run`."""

    timeout: float
    mem: str


def inside() -> bool:
    """Tell whether this process runs inside a UML guest, where AF_VSOCK may be connected."""
    try:
        return "User Mode Linux" in Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return False


def find_kernel() -> Kernel | None:
    """Find the first UML kernel in PATH, and the vsock modules of the same release beside it.

    Returns:
        The kernel, or None if it, its modules or the programs that it needs are missing.
    """
    executable = shutil.which("linux.uml")
    programs = ("setpriv", "unshare", *(["cc"] if _has_amx() else []))
    if executable is None or not all(map(shutil.which, programs)):
        return None
    answer = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False)
    release = Path(executable).parents[1] / "lib/uml/modules" / answer.stdout.strip()
    modules = release / "kernel/net/vmw_vsock"
    return Kernel(Path(executable), modules) if (modules / "vsock.ko").exists() else None


def run(
    argv: Sequence[str],
    *,
    timeout: float = _TIMEOUT,
    mem: str = _MEM,
    modules: Sequence[str] = LOOPBACK,
    env: Mapping[str, str] | None = None,
) -> int:
    """Boot a guest, run one command in it, and end the guest.

    The calling thread must live until this returns: the guest dies with it.

    Args:
        argv: The command and its arguments; a bare name is looked up in the guest's PATH.
        timeout: Seconds for everything, the boot (2 to 3 s) included.
        mem: The guest's memory: a number with the unit K, M or G.
        modules: Names of the kernel modules from the vsock directory to load, in order. Without
            ``vsock_loopback`` there is no CID 1; with none at all there is no AF_VSOCK.
        env: Variables to add to the clean environment, or to replace there.

    Returns:
        The exit status: see the module's text.

    Raises:
        KernelMissingError: There is no UML kernel on this machine.
        ValueError: An argument that cannot work: an empty command, an unknown module, a size.

    Whatever is raised, KeyboardInterrupt included, leaves no process and no file behind.
    """
    kernel = find_kernel()
    if kernel is None:
        raise KernelMissingError
    if not argv:
        raise ValueError("no command")
    config = {
        "argv": list(argv),
        "cwd": os.getcwd(),
        "env": _environment(env or {}),
        "modules": [str(_module(kernel, name)) for name in modules],
    }
    size = _bytes(mem)
    with tempfile.TemporaryDirectory(
        prefix="uml-", dir=_work_parent(), ignore_cleanup_errors=True
    ) as name:
        work = Path(name)
        _write_work(work, config)
        in_time = _boot(
            _kernel_command(kernel, work, size, _preloaded(work) if _has_amx() else ()),
            {"PATH": os.defpath, "TMPDIR": str(_memory_directory(size, work))},
            work / "kernel.log",
            time.monotonic() + timeout,
        )
        return _exit_status(work, in_time)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/run/home",
        "TMPDIR": "/run/tmp",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",  # the guest writes the real tree
        "PYTHONUNBUFFERED": "1",  # a killed guest cannot flush
        **extra,
    }


def _module(kernel: Kernel, name: str) -> Path:
    path = kernel.modules / f"{name}.ko"
    if not path.is_file():
        raise ValueError(f"no such module: {name}")
    return path


def _bytes(size: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]*[KMG]", size):
        raise ValueError(f"not a size of memory: {size!r}")
    return int(size[:-1]) * _UNITS[size[-1]]


def _work_parent() -> str:
    """Choose where to make the work directory.

    Its path goes on the kernel's command line, which knows no good quoting, and has to hold a Unix
    socket's path, which is short; and the guest mounts its own /dev before its init is looked up.
    """
    usual = os.path.realpath(tempfile.gettempdir())
    plain = re.fullmatch(r"[\w./+-]{1,60}", usual, re.ASCII)
    return usual if plain and not usual.startswith("/dev/") else "/tmp"


def _memory_directory(size: int, work: Path) -> Path:
    """Choose where the guest's memory lies: /dev/shm if it serves, else a disk.

    UML maps the unlinked file executable, and dies half-way if it finds no more room; containers
    often have a /dev/shm of 64 MB, or a noexec one.
    """
    shm = Path("/dev/shm")
    with contextlib.suppress(OSError):
        status = os.statvfs(shm)
        room = status.f_bavail * status.f_frsize
        if room >= size and not status.f_flag & os.ST_NOEXEC and os.access(shm, os.W_OK):
            return shm
    return work


def _write_work(work: Path, config: Mapping[str, object]) -> None:
    """Write the configuration, and a first program that starts our init under this Python.

    A shell script, since neither ``#!`` nor the kernel's command line takes every path.
    """
    (work / "config.json").write_text(json.dumps(config), "ascii")
    command = shlex.join([sys.executable, "-ISX", "utf8", str(_INIT), str(work)])
    (work / "init").write_bytes(os.fsencode(f"#!/bin/sh\nexec {command}\n"))
    (work / "init").chmod(0o700)


def _has_amx() -> bool:
    """Tell whether the processor has more registers than the kernel knows how to keep."""
    return " amx_tile " in Path("/proc/cpuinfo").read_text("ascii", "replace")


def _preloaded(work: Path) -> tuple[str, ...]:
    """Compile what lets the kernel run nevertheless, and say how to start it with that."""
    library = work / "xstate.so"
    compiled = subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, _XSTATE],
        capture_output=True,
        text=True,
        check=False,
    )
    if compiled.returncode != 0:
        raise KernelMissingError(f"{_XSTATE.name}: {compiled.stderr.strip()}")
    return ("env", f"LD_PRELOAD={library}")


def _kernel_command(kernel: Kernel, work: Path, size: int, preloaded: Sequence[str]) -> list[str]:
    user_namespace = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("unshare", *user_namespace, "--pid", "--fork", "--kill-child", "--"),
        *_SHELL,
        *preloaded,
        str(kernel.executable),
        f"mem={size}",
        *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={work}/init"),
        *("con=null", "con0=null,fd:1", "quiet", "loglevel=0"),
        *("noreboot", "panic=-1"),  # or a panic reboots, again and again
        *(f"uml_dir={work}/", "umid=guest"),
    ]


def _boot(command: Sequence[str], env: Mapping[str, str], log: Path, deadline: float) -> bool:
    """Run the kernel to its end, or kill it at the deadline; tell whether it was in time."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # a terminal's Ctrl-C is for the launcher to handle
        ) as kernel,
    ):
        assert kernel.stdout is not None
        try:
            in_time = _copy(kernel.stdout, deadline)
        finally:
            _kill(kernel)
            # The end of this pipe is the end of the guest's last process.
            rest = kernel.stdout.read()
        _write(rest)
        return in_time


def _copy(pipe: IO[bytes], deadline: float) -> bool:
    """Copy until the pipe's end; return False if the deadline comes first."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while (seconds := deadline - time.monotonic()) > 0:
            if not selector.select(seconds):
                continue
            data = os.read(pipe.fileno(), 65536)
            if not data:
                return True
            _write(data)
    return False


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _kill(kernel: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a guest, by its namespace, never by its main process alone."""
    # unshare and the namespace's first process are this group; UML's main process leads another.
    if kernel.poll() is None:
        os.killpg(kernel.pid, signal.SIGKILL)
        kernel.wait()


def _exit_status(work: Path, in_time: bool) -> int:
    """Translate what init reported; where it did not, show what the kernel said on its own."""
    with contextlib.suppress(FileNotFoundError):
        status = int((work / "status").read_text("ascii"))
        return status if status >= 0 else 128 - status
    if not in_time:
        return TIMED_OUT
    _write((work / "kernel.log").read_bytes())
    return KERNEL_DIED


def _exit_on_signals(*numbers: signal.Signals) -> None:
    """Make signals end this process by an exception, so that ``finally`` cleans up."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # one is enough: let the cleaning end
        raise SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, leave)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage="%(prog)s [OPTION ...] -- COMMAND [ARG ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--timeout", type=float, default=_TIMEOUT, metavar="S", help="seconds, boot included")
    add("--mem", default=_MEM, metavar="SIZE", help="the guest's memory (%(default)s)")
    add("--modules", default=",".join(LOOPBACK), metavar="A,B", help="to load; '' for none")
    add("--env", default=[], action="append", metavar="NAME=VALUE")
    return parser


def main() -> int:
    """Run as a script; return the exit status."""
    # Split at the first "--" by hand: versions of argparse differ in what they do with another.
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = _parser()
    args = parser.parse_args(sys.argv[1:at])
    _exit_on_signals(signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    try:
        return run(
            sys.argv[at + 1 :],
            timeout=args.timeout,
            mem=args.mem,
            modules=[name for name in args.modules.split(",") if name],
            env=dict(each.split("=", 1) for each in args.env),
        )
    except ValueError as error:
        parser.error(str(error))
    except KernelMissingError as error:
        print(error, file=sys.stderr)
        return KERNEL_DIED


if __name__ == "__main__":
    sys.exit(main())
