# SPDX-License-Identifier: Apache-2.0
"""A complete heartbeat: the real server and the real client, in one process."""

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
"""The seconds that a heartbeat took; what went wrong, in words; or why it has no socket."""


def beat_over_unix() -> Result:
    """Send a heartbeat over a temporary Unix socket. It runs an event loop: call it in a thread."""
    try:
        with scratch_path("doctor.sock") as path:
            return _run(UnixAddress(path))
    except AddressError as error:  # the path is too long
        return OSError(str(error))
    except OSError as error:
        return error


def _run(address: UnixAddress) -> float | str:
    try:
        return trio.run(_beat, address)
    except* (NitrohbError, trio.TooSlowError, OSError) as group:
        problem = next(leaves(group))
    if isinstance(problem, OSError) and descriptor_shortage(problem.errno):
        raise problem  # the heartbeat did not fail
    return str(problem).partition("\n")[0] or f"it took more than {_TIMEOUT:g} s"


async def _beat(address: UnixAddress) -> float:
    with trio.fail_after(_TIMEOUT):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_heartbeat, address))
            return await send_heartbeat(address, timeout=None)
