# SPDX-License-Identifier: Apache-2.0
"""A heartbeat server on asyncio's streams: ``asyncio_streams.py PATH|vsock:PORT``."""

import asyncio
import socket
import sys


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client, and close."""
    try:
        if await reader.read(1) == b"\xb7":
            writer.write(b"\xb7")
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    except OSError:
        pass  # the client has disconnected


async def main() -> None:
    """Answer until killed."""
    where = sys.argv[1]
    if where.startswith("vsock:"):
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.bind((socket.VMADDR_CID_ANY, int(where.removeprefix("vsock:"))))
        server = await asyncio.start_server(answer, sock=sock)
    else:
        server = await asyncio.start_unix_server(answer, where)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
