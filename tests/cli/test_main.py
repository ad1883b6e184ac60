# SPDX-License-Identifier: Apache-2.0
"""Errors, whatever raises them: each is one message, and bugs keep their traceback."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from .process import HEARTBEAT, beat, connected, listening, nitrohb_here, redirected, started


def failing_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every attempt to listen fail."""

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
        other = f"{sock}.other"  # it can listen there, and does not in the end
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


def test_stderr_that_takes_nothing_keeps_the_exit_code() -> None:
    with started("-l", "unix:/nonexistent/s", command=redirected("2>/dev/full")) as script:
        assert script.end() == (1, "", "")
