# SPDX-License-Identifier: Apache-2.0
"""Errors from all layers: each is one message. Bugs keep their traceback."""

import errno
import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NoReturn

import pytest

from nitrohb.__main__ import main

from .process import (
    HEARTBEAT,
    PATIENCE,
    beat,
    connected,
    listening,
    nitrohb_here,
    redirected,
    started,
)


def failing_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every listen fail."""

    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr("nitrohb.cli.serve.listening", fail)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("is_nested", [False, True])
def test_lack_of_descriptors_anywhere_is_one_message(
    is_nested: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    error: Exception = OSError(number, os.strerror(number))
    if is_nested:
        error = ExceptionGroup("", [error, ExceptionGroup("", [error])])
    failing_with(error, monkeypatch)
    code, out, err = nitrohb_here()
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert f"too many open files ({errno.errorcode[number]})" in err


def test_no_temporary_directory_for_trio_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    error = FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    failing_with(error, monkeypatch)
    code, out, err = nitrohb_here()
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "TMPDIR" in err


def test_another_system_error_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(OSError(errno.EIO, os.strerror(errno.EIO)), monkeypatch)
    with pytest.RaisesGroup(pytest.RaisesExc(OSError, match=os.strerror(errno.EIO))):
        nitrohb_here()


@pytest.mark.usefixtures("_broken_accept")
def test_listening_socket_that_breaks_is_one_message(sock: Path) -> None:
    with listening(sock) as server, connected(sock):
        fd = server.detach()  # nitrohb closes it
        code, out, err = nitrohb_here("-l", f"fd:{fd}", "--quiet", "--timeout", "10")
    assert (code, out) == (1, "")
    assert f"cannot listen on unix:{sock}: it is not a socket (ENOTSOCK)\n" in err


def test_second_nitrohb_on_an_address_fails_and_does_not_disturb_the_first(sock: Path) -> None:
    address = f"unix:{sock}"
    with started("-l", address, "--format", "json") as first:
        assert first.event()["event"] == "listening"
        other = f"{sock}.other"  # the listen succeeds, but is closed at the end
        code, out, err = nitrohb_here("-l", f"unix:{other}", "-l", address, "--timeout", "9")
        assert (code, out) == (1, "")
        message, remedy = err.splitlines()
        assert message.startswith(f"nitrohb: cannot listen on {address}: ")
        assert "(EADDRINUSE)" in message
        assert f"nitrohb doctor -l {address}" in remedy
        assert not os.path.exists(other)
        assert beat(sock) == HEARTBEAT
        assert [first.event()["event"] for _ in range(3)] == ["connected", "heartbeat", "done"]
        assert first.end() == (0, "", "")


def test_a_full_stderr_keeps_the_exit_code() -> None:
    with started("-l", "unix:/nonexistent/s", command=redirected("2>/dev/full")) as script:
        assert script.end() == (1, "", "")


# What the installed script does. A module is loaded, and just before it something happens.
EARLY = """
import os, sys
class Early:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {what}
sys.meta_path.insert(0, Early())
sys.argv = ["nitrohb", "--version"]
from {script} import {function}
sys.exit({function}())
"""


def early(module: str, what: str, via: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    """Run the installed script, and let something happen just before it loads a module."""
    (script,) = entry_points(group="console_scripts", name="nitrohb")
    names = {"script": script.module, "function": script.attr}
    code = EARLY.format(module=module, what=what, **names)
    command = [*via, sys.executable, "-S", "-c", code]  # site may load some of the modules
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=env)


@pytest.mark.parametrize("module", ["nitrohb.cli", "nitrohb.errors", "enum", "nitrohb.cli.signals"])
def test_interrupt_in_the_first_moments_shows_no_traceback(module: str) -> None:
    done = early(module, "os.kill(os.getpid(), 2)")
    assert (done.returncode, done.stdout, done.stderr) == (-2, "", "")


def test_interrupt_that_is_ignored_stays_ignored_in_the_first_moments() -> None:
    ignored = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    done = early("nitrohb.cli", "os.kill(os.getpid(), 2)", ignored)
    assert (done.returncode, done.stderr) == (0, "")


def test_lack_of_memory_is_one_message() -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1, 1))"
    done = early("nitrohb.cli", limit)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 2)
    assert "memory" in done.stderr
    assert "ulimit -v" in done.stderr
    assert "Traceback" not in done.stderr


LACKS = (
    MemoryError(),
    ImportError("libssl.so.3: failed to map segment from shared object"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    SystemError("initialization of _socket raised unreported exception"),
    ExceptionGroup("", [MemoryError(), ExceptionGroup("", [MemoryError()])]),
)


@pytest.mark.parametrize("error", LACKS, ids=repr)
def test_lack_of_memory_anywhere_is_one_message(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_with(error, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["nitrohb"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(SystemExit, match="ulimit -v"):
        main()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name"),
        SystemError("bad argument to internal function"),
        ExceptionGroup("", [MemoryError(), KeyError()]),
    ],
)
def test_a_bug_is_not_reported_as_a_lack_of_memory(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_with(error, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["nitrohb"])
    with pytest.raises((ImportError, SystemError, ExceptionGroup)):
        main()
