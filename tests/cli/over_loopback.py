# SPDX-License-Identifier: Apache-2.0
"""nitrohb, started by a test: whoever connects to its Unix socket seems to be of CID 1.

So it is where VMs are forwarded over the loopback of AF_VSOCK, which tests on this machine lack.
The arguments are the path of that socket, and then nitrohb's own.
"""

import sys

from nitrohb import Listener, UnixAddress, VsockAddress, cli
from nitrohb.cli import listening
from nitrohb.sockets.opening import open_listeners


class OverLoopback(Listener):
    """A Unix socket that passes for one of AF_VSOCK."""

    def __init__(self, real: Listener, path: str) -> None:
        super().__init__(VsockAddress(3, 9000), real.sock, path=path)
        self.has_cids = True

    def accept(self) -> tuple[int, VsockAddress | None]:
        conn, _ = self.sock.accept()
        conn.setblocking(False)
        return conn.detach(), VsockAddress(1, 1024)


def open_over_loopback(*_: object, **__: object) -> list[Listener]:
    (real,) = open_listeners([UnixAddress(PATH)])
    return [OverLoopback(real, PATH)]


PATH = sys.argv[1]
listening.open_listeners = open_over_loopback  # type: ignore[attr-defined]
sys.exit(cli.main(sys.argv[2:]))
