# SPDX-License-Identifier: Apache-2.0
"""The init process of the User Mode Linux guest that ``launcher.py`` boots; never for a host.

The guest's root is the host's own tree, over hostfs, and this file runs in it as pid 1, under the
Python that ran the launcher. Its one argument is the launcher's work directory: ``config.json``
comes in there, and the command's status goes out there, as the file ``status`` (a decimal number;
negative: killed by that signal), because a UML kernel's own exit code means nothing.

Every failure here is an exception: pid 1 ends, the kernel panics, and the launcher, finding no
status, reports that the kernel died, with the traceback in the output.
"""

import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import termios
import threading
from typing import Any

REFUSED = 96
CANNOT_START = 97

HOSTFS_MAGIC = 0x00C0FFEE
RB_POWER_OFF = 0x4321FEDC
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41
# glibc has no wrapper for finit_module(2). Debian builds UML for these two machines only.
FINIT_MODULE = {"x86_64": 313, "i686": 350}

MOUNTS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    # /run and /dev/shm are private to the guest; /tmp stays the host's, for the caller's files.
    ("tmpfs", "/run", "mode=755"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("devpts", "/dev/pts", "ptmxmode=666"),
)
DEVICE_LINKS = {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
OPEN_FILES = 20_000  # room for tests with thousands of connections, both ends in one process
LAST_WORDS_SECONDS = 2.0  # how long a process that outlives the command may hold its output open

libc = ctypes.CDLL(None, use_errno=True)


def in_uml() -> bool:
    """Tell whether the kernel that answers is UML: only UML can have hostfs as its root.

    Unlike /proc/cpuinfo this needs no mount; and it turns false for a guest process that goes on
    natively, on the host, after its kernel was killed.
    """
    buffer = (ctypes.c_long * 64)()  # larger than any struct statfs; f_type is its first member
    check(libc.statfs(b"/", buffer), "statfs /")
    return buffer[0] == HOSTFS_MAGIC


def check(result: int, what: str) -> None:
    """Raise OSError, naming ``what``, if a C function returned non-zero."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount_all() -> None:
    for kind, target, options in MOUNTS:
        os.makedirs(target, exist_ok=True)
        name = kind.encode()
        check(libc.mount(name, target.encode(), name, 0, options.encode()), f"mount {target}")
    for link, target in DEVICE_LINKS.items():
        os.symlink(f"/proc/self/{target}", f"/dev/{link}")


def load_modules(paths: list[str]) -> None:
    number = FINIT_MODULE[os.uname().machine]
    for path in paths:
        with open(path, "rb") as module:
            check(libc.syscall(number, module.fileno(), b"", 0), f"finit_module {path}")
    if os.path.exists("/dev/vsock"):  # appears with the module vsock
        os.chmod("/dev/vsock", 0o666)


def set_up() -> None:
    """Bring up the loopback interface, the limits and the command's private directories."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    for path in ("/run/tmp", "/run/home"):
        os.mkdir(path)
        os.chmod(path, 0o1777)


def make_console_raw() -> None:
    """Keep the console from writing CR LF for every LF."""
    attributes = termios.tcgetattr(1)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(1, termios.TCSANOW, attributes)


def copy(source: int, target: int) -> None:
    """Copy bytes between two descriptors until the end of ``source``."""
    while data := os.read(source, 65536):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


def start(config: dict[str, Any], output: int) -> int:
    """Start the command and return its pid; it has no console, so that nothing sees a terminal."""
    command = subprocess.Popen(
        config["argv"],
        cwd=config["cwd"],
        env=config["env"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    return command.pid


def reap_until(pid: int) -> int:
    """Reap every child, adopted orphans too, until ``pid`` ends; return its status."""
    while True:
        reaped, status = os.waitpid(-1, 0)
        if reaped == pid:
            return os.waitstatus_to_exitcode(status)


def run_command(config: dict[str, Any]) -> int:
    """Run the command, its output copied to the console; return its status."""
    reader, writer = os.pipe()
    try:
        pid = start(config, writer)
    except OSError as error:
        print(f"cannot start {config['argv'][0]}: {error}", flush=True)
        return CANNOT_START
    finally:
        os.close(writer)
    copier = threading.Thread(target=copy, args=(reader, 1), daemon=True)
    copier.start()
    status = reap_until(pid)
    copier.join(LAST_WORDS_SECONDS)
    return status


def report(status: int) -> None:
    """Leave the status for the launcher, renamed into place so that it is never half written."""
    with open("status.new", "w", encoding="ascii") as file:
        file.write(str(status))
    os.rename("status.new", "status")


def main() -> None:
    """Run the configured command as the guest's init, then power the guest off."""
    if os.getpid() != 1 or not in_uml():
        print("refused: only for pid 1 of a User Mode Linux guest", file=sys.stderr)
        sys.exit(REFUSED)
    os.chdir(sys.argv[1])  # from here on by relative names: the mounts may hide the path
    with open("config.json", encoding="ascii") as file:
        config = json.load(file)
    make_console_raw()
    mount_all()
    load_modules(config["modules"])
    set_up()
    status = run_command(config)
    termios.tcdrain(1)
    report(status)
    # reboot(2), and never sysrq: were this running natively by now, in the launcher's own PID
    # namespace, it could end that namespace at worst, where sysrq would take the host down.
    if in_uml():
        libc.reboot(RB_POWER_OFF)


if __name__ == "__main__":
    main()
