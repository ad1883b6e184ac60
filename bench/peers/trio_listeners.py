# SPDX-License-Identifier: Apache-2.0
"""A heartbeat server on ``trio.serve_listeners``: ``trio_listeners.py PATH|vsock:PORT``."""

import sys

import trio


async def answer(stream: trio.SocketStream) -> None:
    """Answer one client. serve_listeners() closes the stream after that."""
    try:
        if await stream.receive_some(1) == b"\xb7":
            await stream.send_all(b"\xb7")
    except trio.BrokenResourceError:
        pass  # the client has disconnected


async def main() -> None:
    """Answer until killed."""
    where = sys.argv[1]
    if where.startswith("vsock:"):
        sock = trio.socket.socket(trio.socket.AF_VSOCK, trio.socket.SOCK_STREAM)
        await sock.bind((trio.socket.VMADDR_CID_ANY, int(where.removeprefix("vsock:"))))
    else:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(where)
    sock.listen()
    await trio.serve_listeners(answer, [trio.SocketListener(sock)])


if __name__ == "__main__":
    trio.run(main)
