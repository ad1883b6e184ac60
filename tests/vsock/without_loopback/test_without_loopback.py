# SPDX-License-Identifier: Apache-2.0
"""nitrohb in a kernel that has AF_VSOCK but no loopback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nitrohb import ListenError, open_listeners
from tests.cli.process import nitrohb, nitrohb_here
from tests.test_examples import BOOT_EIF, image

__all__ = ["image"]  # a fixture

pytestmark = pytest.mark.vsock


def test_the_loopback_cid_names_its_module() -> None:
    with pytest.raises(ListenError) as no:
        open_listeners(["vsock:1:9000"])
    assert no.value.errno == errno.EADDRNOTAVAIL
    assert "modprobe vsock_loopback" in no.value.remedy


def test_any_cid_can_be_listened_on() -> None:
    open_listeners(["vsock::9000"])[0].close()


def test_the_command_names_it_too() -> None:
    code, out, err = nitrohb("-l", "vsock:1:9000")
    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "modprobe vsock_loopback" in err


def test_send_names_it_too() -> None:
    code, out, err = nitrohb("send", "vsock:1:9000")
    assert (code, out) == (1, "")
    assert "modprobe vsock_loopback" in err


def test_boot_eif_names_the_module_and_the_other_way(image: Path) -> None:
    done = subprocess.run([sys.executable, BOOT_EIF, image], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    for fact in ("vsock:1:9000", "modprobe vsock_loopback", "--vhost-user"):
        assert fact in done.stderr
    assert "vsock::9000" not in done.stderr


def test_the_doctor_says_that_it_can_listen_and_that_nobody_can_connect() -> None:
    code, out, err = nitrohb_here("doctor")
    assert (code, err) == (1, "")
    assert out.startswith("No: nitrohb can listen on vsock::9000, but ")
    assert "modprobe vsock_loopback" in out


def test_the_doctor_suspects_processes_with_af_vsock_sockets() -> None:
    with open_listeners(["vsock::9000"])[0]:
        code, out, err = nitrohb("doctor")
    assert (code, err) == (1, "")
    assert f"; probably held by process {os.getpid()} (" in out
