# SPDX-License-Identifier: Apache-2.0
"""A heartbeat server in blocking Python, one client at a time: ``blocking.py PATH|vsock:PORT``."""

import socket
import sys


def listen(where: str) -> socket.socket:
    """Listen on a Unix socket, or on a port of any CID."""
    if where.startswith("vsock:"):
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, int(where.removeprefix("vsock:"))))
    else:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(where)
    listener.listen()
    return listener


def main() -> None:
    """Answer until killed. A silent client blocks all others."""
    with listen(sys.argv[1]) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    if connection.recv(1) == b"\xb7":
                        connection.sendall(b"\xb7")
                except OSError:
                    pass  # the client has disconnected


if __name__ == "__main__":
    main()
