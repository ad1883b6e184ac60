# SPDX-License-Identifier: Apache-2.0
"""The safety of the tests: no AF_VSOCK connects from this machine, and every leak is found."""

import os
import socket
import sys

import pytest

from tests.conftest import open_descriptors
from tests.uml import launcher


@pytest.mark.skipif(not hasattr(socket, "AF_VSOCK"), reason="this Python has no AF_VSOCK")
@pytest.mark.skipif(launcher.inside(), reason="in a test kernel they are what the tests are for")
def test_a_test_cannot_connect_over_af_vsock() -> None:
    with socket.socket(socket.AF_UNIX) as stand_in:
        sys.audit("socket.connect", stand_in, "")
    # The hook is called directly: no such socket is created or connected.
    stand_in = type("VsockSocket", (socket.socket,), {"family": socket.AF_VSOCK})()
    with stand_in, pytest.raises(RuntimeError, match="only inside a kernel"):
        sys.audit("socket.connect", stand_in, (2, 1))


def test_an_open_descriptor_is_found() -> None:
    before = open_descriptors()
    fd = os.open(os.devnull, os.O_RDONLY)
    assert open_descriptors() == before | {fd: os.devnull}
    os.close(fd)
    assert open_descriptors() == before
