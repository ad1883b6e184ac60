# SPDX-License-Identifier: Apache-2.0
"""A complete heartbeat: the real server and the real client, in one process.

Both functions block and run an event loop: call them in a thread.
"""

import socket
from functools import partial
from typing import Final

import trio

from ..addresses import PORT_ANY, UnixAddress, VsockAddress
from ..client import send_heartbeat
from ..errors import AddressError, NitrohbError
from ..remedies import LOOPBACK_CID, NO_AF_VSOCK, descriptor_shortage
from ..server import serve_heartbeat
from ..sockets.scratch import scratch_path
from ..sockets.syscalls import AF_VSOCK

_TIMEOUT: Final = 5.0  # seconds

_Problem = NitrohbError | trio.TooSlowError | OSError

Result = float | str | OSError
"""The seconds that a heartbeat took; what went wrong, in words; or why it has no socket."""


def beat_over_unix() -> Result:
    """Send a heartbeat over a temporary Unix socket."""
    try:
        with scratch_path("doctor.sock") as path:
            address = UnixAddress(path)
            return _run(address, address)
    except AddressError as error:  # the path is too long
        return OSError(str(error))
    except OSError as error:
        return error


def beat_over_loopback() -> Result:
    """Send a heartbeat to CID 1, if that is the loopback of this machine.

    It connects only while it is bound to CID 1. The kernel binds a socket to CID 1 only if the
    loopback transport is present, so the connection stays in this machine. Without it, the error
    is EADDRNOTAVAIL.
    """
    if AF_VSOCK is None:
        return OSError(NO_AF_VSOCK, "no AF_VSOCK")
    try:
        with socket.socket(AF_VSOCK, socket.SOCK_STREAM) as sock:
            sock.bind((LOOPBACK_CID, PORT_ANY))
            sock.listen()
            return _run(sock, VsockAddress(*sock.getsockname()))
    except OSError as error:
        return error


def _run(listen: UnixAddress | socket.socket, address: UnixAddress | VsockAddress) -> float | str:
    try:
        return trio.run(_beat, listen, address)
    except* (NitrohbError, trio.TooSlowError, OSError) as group:
        problem = _first(group)
    if isinstance(problem, OSError) and descriptor_shortage(problem.errno):
        raise problem  # the heartbeat did not fail
    return str(problem).partition("\n")[0] or f"it took more than {_TIMEOUT:g} s"


async def _beat(listen: UnixAddress | socket.socket, address: UnixAddress | VsockAddress) -> float:
    with trio.fail_after(_TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, listen))
            return await send_heartbeat(address, timeout=None)


def _first(group: BaseExceptionGroup[_Problem]) -> _Problem:
    """The first error in a group of groups."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
