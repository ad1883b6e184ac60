# SPDX-License-Identifier: Apache-2.0
"""nitrohb in a kernel without AF_VSOCK."""

import errno
from pathlib import Path

import anyio
import pytest

from nitrohb import ConnectError, ListenError, open_listeners, send_heartbeat
from tests.cli.process import nitrohb, nitrohb_here

pytestmark = pytest.mark.vsock


def test_listening_and_connecting_name_the_module() -> None:
    with pytest.raises(ListenError) as no_listener:
        open_listeners(["vsock::9000"])
    with pytest.raises(ConnectError) as no_connection:
        anyio.run(send_heartbeat, backend="trio")
    for no in (no_listener.value, no_connection.value):
        assert no.errno == errno.EAFNOSUPPORT
        assert "modprobe vsock" in no.remedy


def test_the_script_names_it_and_offers_a_demonstration_that_works() -> None:
    for code, out, err in (nitrohb("serve"), nitrohb_here("send")):
        assert (code, out, len(err.splitlines())) == (1, "", 2)
        assert "modprobe vsock" in err
        assert "nitrohb demo" in err
    code, _, err = nitrohb("demo")
    assert (code, err) == (0, "")


def test_the_doctor_finds_no_vsock() -> None:
    code, out, err = nitrohb_here("doctor")
    assert (code, err) == (1, "")
    assert out.startswith("No: nitrohb cannot listen on vsock::9000: ")
    assert "EAFNOSUPPORT" in out
    assert "modprobe vsock" in out


def test_the_doctor_finds_what_still_works(tmp_path: Path) -> None:
    code, out, err = nitrohb_here("doctor", "-l", f"unix:{tmp_path}/s")
    assert (code, err) == (0, "")
    assert out.startswith("Yes: ")
