# SPDX-License-Identifier: Apache-2.0
"""The console of a guest on a real AF_VSOCK. The loopback plays the hypervisor, whose CID is 0."""

import os
import socket

import pytest

from tests.cli.process import started

from .test_server import LOCAL, PATIENCE

pytestmark = pytest.mark.vsock

PORT = 10016


def test_the_last_lines_of_a_console_on_vsock() -> None:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as vmm:
        vmm.bind((LOCAL, PORT))
        vmm.listen()
        vmm.settimeout(PATIENCE)
        options = ("--quiet", "--console", f"vsock:{LOCAL}:{PORT}", "--timeout", "5")
        with started("run", *options, "--", "tail", "-f", "/dev/null") as script:
            with vmm.accept()[0] as console:
                console.sendall(b"Booting\nKernel panic\n")
            script.popen.wait(PATIENCE)
            code, _, err = script.end()
    assert code == 124
    title = f"nitrohb: the last lines of the console at vsock:{LOCAL}:{PORT}:"
    assert err.splitlines()[-3:] == [title, "| Booting", "| Kernel panic"]


def test_a_console_that_does_not_exist() -> None:
    options = ("--quiet", "--console", f"vsock:{LOCAL}:{PORT}", "--timeout", "1")
    with started("run", *options, "--", "tail", "-f", "/dev/null") as script:
        code, _, err = script.end()
    assert code == 124
    assert "(ECONNRESET)" in err.splitlines()[-2]


def test_without_a_console_the_remedy_is_debug_mode() -> None:
    """It connects, sends a wrong byte, and so tells its CID."""
    enclave = (os.environ["NITROHB_ENCLAVE"], str(LOCAL), "9000", "1")
    with started("run", "--quiet", "--console", "auto", "--", *enclave) as script:
        code, _, err = script.end()
    assert code == 125
    nothing, debug_mode = err.splitlines()[-2:]
    assert f"the console at vsock:0:{LOCAL + 10_000}: " in nothing
    assert "debug mode" in debug_mode
