# SPDX-License-Identifier: Apache-2.0
"""A heartbeat server on asyncio's streams: ``asyncio_streams.py PATH``."""

import asyncio
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
        pass  # this client has gone


async def main() -> None:
    """Answer for ever."""
    server = await asyncio.start_unix_server(answer, sys.argv[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
