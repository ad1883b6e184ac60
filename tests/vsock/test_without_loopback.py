# SPDX-License-Identifier: Apache-2.0
"""nitrohb in a kernel that has AF_VSOCK but no loopback."""

import errno
import os
import subprocess
import sys

import pytest

from nitrohb import ListenError, open_listeners

pytestmark = pytest.mark.vsock


def test_the_loopback_cid_names_its_module() -> None:
    with pytest.raises(ListenError, match="CID 1 is the loopback") as no:
        open_listeners(["vsock:1:9000"])
    assert no.value.errno == errno.EADDRNOTAVAIL
    assert "modprobe vsock_loopback" in no.value.remedy


def test_any_cid_can_be_listened_on() -> None:
    open_listeners(["vsock::9000"])[0].close()


def test_the_script_says_so_too() -> None:
    command = [sys.executable, "-m", "nitrohb", "-l", "vsock:1:9000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "modprobe vsock_loopback" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_the_doctor_warns_that_nobody_can_connect() -> None:
    command = [sys.executable, "-m", "nitrohb", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "warning  loopback transport: missing, like all others: nobody can" in done.stdout
    assert "modprobe vsock_loopback" in done.stdout
    assert "skipped  self-test, CID 1: there is no loopback transport" in done.stdout
    assert done.stdout.endswith("can listen on vsock::9000, but see the warnings.\n")


def test_the_doctor_suspects_who_has_af_vsock_sockets() -> None:
    """This kernel has no sock_diag for AF_VSOCK either."""
    with open_listeners(["vsock::9000"])[0]:
        command = [sys.executable, "-m", "nitrohb", "doctor"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"; probably held by process {os.getpid()} (" in done.stdout
    assert "), which has AF_VSOCK sockets open\n" in done.stdout
