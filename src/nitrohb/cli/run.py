# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run``: listen first, then start a command, and await its heartbeat."""

from __future__ import annotations

import signal

from ..errors import UsageError
from .limits import time_limit
from .listening import listening

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from .console import Console
    from .stop import Stop

__all__ = ["run"]


def run(args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Listen, start the command, answer and report, and return the command's status."""
    if args.misplaced or not args.argv:
        raise UsageError("the command stands after --, as in: nitrohb run [options] -- CMD ARG...")
    timeout = time_limit(args)
    stop.install_rest()
    # If whoever started us ignores it, the system forgets how the command ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with listening(args) as listeners:
        from .launch import Launch  # here, because an enclave may be booting already

        launch = Launch(listeners, timeout, args, console)
        return stop.run(lambda: launch.run(stop), launch.take)
