# SPDX-License-Identifier: Apache-2.0
"""What the kernel knows about a running process: memory, CPU time, wake-ups, system calls."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Memory", "Rest", "cpu_ns", "memory", "open_files", "watch_at_rest"]

_DETACH_DEADLINE = 10.0  # seconds


@dataclass(frozen=True)
class Memory:
    """Memory of a process group, in KiB.

    Attributes:
        rss: Resident set: every resident page counts in full.
        pss: Proportional set: a page that n processes share counts 1/n in each.
    """

    rss: float
    pss: float


@dataclass(frozen=True)
class Rest:
    """What an idle process did.

    Attributes:
        seconds: How long each count took.
        wakeups: How often it was scheduled.
        syscalls: How many system calls it made; None without strace.
    """

    seconds: float
    wakeups: int
    syscalls: int | None


def memory(group: int) -> Memory:
    """Return the memory of all processes of a process group."""
    rss = pss = 0.0
    for pid in _members(group):
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith("Rss:"):
                rss += float(line.split()[1])
            elif line.startswith("Pss:"):
                pss += float(line.split()[1])
    return Memory(rss, pss)


def cpu_ns(pid: int) -> int:
    """Return how many ns the main thread of a process has run; 0 if the kernel does not tell."""
    fields = _read(f"/proc/{pid}/schedstat").split()
    return int(fields[0]) if fields else 0


def open_files(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def watch_at_rest(pid: int, log: str, seconds: float) -> Rest:
    """Count the wake-ups and then, with strace, the system calls of an idle process.

    Args:
        pid: The process.
        log: A file for the output of strace.
        seconds: How long each count takes.
    """
    before = _switches(pid)
    time.sleep(seconds)
    return Rest(seconds, _switches(pid) - before, _count_syscalls(pid, log, seconds))


def _count_syscalls(pid: int, log: str, seconds: float) -> int | None:
    if shutil.which("strace") is None:
        return None
    strace = subprocess.Popen(
        ["strace", "-f", "-o", log, "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(seconds)
        attached = strace.poll() is None
    finally:
        strace.terminate()
        strace.wait(_DETACH_DEADLINE)
    return _begun(_read(log).splitlines()) if attached else None


def _begun(lines: list[str]) -> int:
    """Return how many system calls began while strace watched, without the interrupted one."""
    calls = [line for line in lines if "(" in line and "resumed>" not in line]
    return sum("<detached" not in line for line in calls)


def _switches(pid: int) -> int:
    names = ("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")
    lines = [line.split() for line in _read(f"/proc/{pid}/status").splitlines()]
    return sum(int(words[1]) for words in lines if words and words[0] in names)


def _members(group: int) -> Iterator[int]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
        if fields and int(fields[2]) == group:
            yield int(name)


def _read(path: str) -> str:
    """Return the text of a file in /proc, or an empty text if its process has ended."""
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
