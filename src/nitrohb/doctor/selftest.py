# SPDX-License-Identifier: Apache-2.0
"""Sends a heartbeat from a real client to a real server, in one process."""

from functools import partial
from typing import Final

import trio

from ..addresses import UnixAddress
from ..client import send_heartbeat
from ..errors import AddressError, NitrohbError, leaves
from ..remedies import descriptor_shortage
from ..server import serve_heartbeat
from ..sockets.scratch import scratch_path

_TIMEOUT: Final = 5.0  # seconds

_Problem = NitrohbError | trio.TooSlowError | OSError

Result = float | str | OSError
"""Seconds until the echo; or, in words, why it did not arrive; or why there was no socket."""


def beat_over_unix() -> Result:
    """Send a heartbeat over a temporary Unix socket. Runs an event loop: call it in a thread."""
    try:
        with scratch_path("doctor.sock") as path:
            return _run(UnixAddress(path))
    except AddressError as error:  # the path is too long
        return OSError(str(error).partition("\n")[0])
    except OSError as error:
        return error


def _run(address: UnixAddress) -> float | str:
    try:
        return trio.run(_beat, address)
    except* (NitrohbError, trio.TooSlowError, OSError) as group:
        problem = next(leaves(group))
    if isinstance(problem, OSError) and descriptor_shortage(problem.errno):
        raise problem  # the heartbeat has not failed
    return str(problem).partition("\n")[0] or f"it took more than {_TIMEOUT:g} s"


async def _beat(address: UnixAddress) -> float:
    with trio.fail_after(_TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, address))
            return await send_heartbeat(address, timeout=None)
