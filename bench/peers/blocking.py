# SPDX-License-Identifier: Apache-2.0
"""A heartbeat server in blocking Python, one client at a time: ``blocking.py PATH``."""

import socket
import sys


def main() -> None:
    """Answer for ever. A client that stays silent keeps all others waiting."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(sys.argv[1])
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    if connection.recv(1) == b"\xb7":
                        connection.sendall(b"\xb7")
                except OSError:
                    pass  # this client has gone


if __name__ == "__main__":
    main()
