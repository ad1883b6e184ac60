# SPDX-License-Identifier: Apache-2.0
"""nitrohb in a kernel without AF_VSOCK."""

import errno
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from nitrohb import ConnectError, ListenError, open_listeners, send_heartbeat

pytestmark = pytest.mark.vsock


def test_listening_names_the_module() -> None:
    with pytest.raises(ListenError, match="this kernel has no AF_VSOCK") as no:
        open_listeners(["vsock::9000"])
    assert no.value.errno == errno.EAFNOSUPPORT
    assert "modprobe vsock" in no.value.remedy


def test_connecting_names_the_module() -> None:
    with pytest.raises(ConnectError, match="this kernel has no AF_VSOCK") as no:
        anyio.run(send_heartbeat, backend="trio")
    assert no.value.errno == errno.EAFNOSUPPORT


@pytest.mark.parametrize("command", ["serve", "send"])
def test_the_script_says_so_too(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nitrohb", command], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "modprobe vsock" in done.stderr
    assert "nitrohb demo" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_the_doctor_finds_none() -> None:
    command = [sys.executable, "-m", "nitrohb", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    reason = "this kernel has no AF_VSOCK (EAFNOSUPPORT)"
    assert f"\nfailed   kernel: {reason}\n" in done.stdout
    assert f"failed   listen vsock::9000: {reason}\n" in done.stdout
    assert f"skipped  loopback transport: cannot be told: {reason}\n" in done.stdout
    assert f"skipped  self-test, CID 1: cannot be told: {reason}\n" in done.stdout
    assert f"skipped  vsock namespace: {reason}\n" in done.stdout
    assert "-> Load its module (modprobe vsock)" in done.stdout


def test_the_doctor_finds_what_works_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nitrohb", "doctor", "-l", f"unix:{tmp_path}/s"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "info     kernel: this kernel has no AF_VSOCK" in done.stdout
    assert done.stdout.endswith(f"nitrohb serve can listen on unix:{tmp_path}/s.\n")


def test_what_the_message_offers_works_there() -> None:
    demo = subprocess.run([sys.executable, "-m", "nitrohb", "demo"], capture_output=True, text=True)
    assert (demo.returncode, demo.stderr) == (0, "")
    assert "That was a whole boot." in demo.stdout
