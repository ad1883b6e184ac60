# SPDX-License-Identifier: Apache-2.0
"""The console of a guest: its last lines say why there is no heartbeat.

The VMM offers the serial port of a guest as a Unix socket, and accepts one reader at a time. A real
enclave has a console only in debug mode: on vsock, at the hypervisor (CID 0) and the port CID +
10000. (Source: nitro-cli, which reads it there.)
"""

import sys
from collections import deque
from collections.abc import Callable
from typing import Final

import anyio

from .addresses import Address, VsockAddress
from .arguments import check_callback
from .client import connect, connectable
from .errors import ConnectError
from .sockets import syscalls

LINES: Final = 200
LINE_MAX: Final = 1024  # bytes to keep of each line

HYPERVISOR_CID: Final = 0
_ENCLAVE_PORTS: Final = 10_000

_READ_SIZE: Final = 256 * 1024  # more than the buffer of a socket: one read empties it
# Seconds after each read. Without it, a flood or many tiny writes would keep the CPU busy. If it
# were longer, the guest would have to wait: a socket has room for some 280 writes of one byte.
_PAUSE: Final = 0.001
_RETRY: Final = 0.05  # seconds; until there is a reader, a VMM drops what the guest writes


class Console:
    """The last lines of the console of a guest, read while ``run()`` runs.

    .. code-block:: python

        import trio

        from nitrohb import Console, HeartbeatTimeoutError, serve_heartbeat


        async def boot(timeout: float) -> None:
            console = Console("unix:serial.sock")
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve_heartbeat, "unix:enclave.sock")
                nursery.start_soon(console.run)
                ...  # start the VMM here
                try:
                    await server.wait_heartbeat(timeout=timeout)
                except HeartbeatTimeoutError as error:
                    print(error)
                    for line in console.tail():
                        print(line)
                nursery.cancel_scope.cancel()


        trio.run(boot, 0.1)

    Args:
        address: Where the VMM offers the console, such as ``unix:PATH``. For a real enclave in
            debug mode with CID 16, it is ``vsock:0:10016``.
        on_data: Is called in the event loop with the bytes as they arrive, for example to log them.
            It must not block.

    Attributes:
        address: The address.
        attempted: An ``anyio.Event``, set after the first attempt to connect. Wait for it before
            you look at ``error`` or the lines of a guest that has just started.
        error: Why the last attempt to connect failed; None if it succeeded.

    Raises:
        AddressError: The address is malformed.
        UsageError: You cannot connect to such an address, or ``on_data`` is async.
    """

    def __init__(
        self, address: str | Address, *, on_data: Callable[[bytes], object] = lambda _: None
    ) -> None:
        self.address = connectable(address)
        check_callback("on_data", on_data)
        self.attempted = anyio.Event()
        self.error: ConnectError | None = None
        self._on_data = on_data
        self._fd: int | None = None  # while connected
        self._tail = Tail()

    async def run(self) -> None:
        """Read the console until cancelled, under trio or asyncio.

        The VMM creates its socket when it starts. So this tries to connect until it succeeds, and
        connects again when a connection ends.

        **Checkpoints.** It always executes a checkpoint. A cancellation closes the connection and
        keeps the lines.
        """
        while True:
            try:
                with await connect(self.address) as conn:
                    self.error = None
                    self.attempted.set()
                    await self._read(conn.fileno())
            except ConnectError as error:
                self.error = error
                self.attempted.set()
            await anyio.sleep(_RETRY)

    def tail(self) -> list[str]:
        r"""Return at most the last 200 lines, each cut off after 1024 bytes, and safe to print.

        The guest controls the content. Escapes such as ``\x1b`` replace what could harm a terminal.
        Call ``tail()`` in the thread of ``run()``, because ``tail()`` also reads what has just
        arrived.
        """
        self._receive()
        return self._tail.lines()

    async def _read(self, fd: int) -> None:
        self._fd = fd
        try:
            while self._receive():
                await anyio.sleep(_PAUSE)
                await anyio.wait_readable(fd)
        finally:
            self._receive()  # what came during the pause
            self._fd = None
            self._tail.end_line()

    def _receive(self) -> bool:
        """Read what has arrived, and return whether more can come."""
        data = None if self._fd is None else syscalls.try_receive(self._fd, _READ_SIZE)
        if data:
            self._tail.feed(data)
            self._on_data(data)
        return data != b""


class Tail:
    """The last lines of a stream of bytes. Its memory is bounded."""

    def __init__(self) -> None:
        self._ended = deque[bytes](maxlen=LINES)
        self._line = b""  # the line without an end yet; LINE_MAX + 1 bytes if it is longer

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        # Do not split what comes before the last LINES: it would not be kept.
        first, *others = data.rsplit(b"\n", LINES + 1)
        self._line = (self._line + first[: LINE_MAX + 1])[: LINE_MAX + 1]
        for line in others:
            self._ended.append(self._line)
            self._line = line[: LINE_MAX + 1]

    def end_line(self) -> None:
        """End the current line."""
        if self._line:
            self.feed(b"\n")

    def lines(self) -> list[str]:
        """Return the lines: see ``Console.tail()``."""
        lines = [*self._ended, self._line] if self._line else self._ended
        return [_printable(line) for line in lines][-LINES:]


def _printable(line: bytes) -> str:
    # In the encoding of the file system, as paths are, because stdout can print it.
    text = line[:LINE_MAX].strip(b"\r").decode(sys.getfilesystemencoding(), "backslashreplace")
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text.expandtabs())
    return f"{shown}..." if len(line) > LINE_MAX else shown


def enclave_console(cid: int) -> VsockAddress:
    """Return the address of the console of a real enclave in debug mode."""
    return VsockAddress(HYPERVISOR_CID, (cid + _ENCLAVE_PORTS) % 2**32)
