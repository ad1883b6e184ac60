# SPDX-License-Identifier: Apache-2.0
"""``nitrohb serve``: listen first, load later, answer, report."""

from __future__ import annotations

import math

from . import exits
from .limits import time_limit
from .listening import listening

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..listeners import Listener
    from .console import Console
    from .stop import Stop

__all__ = ["serve"]


def serve(args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Listen, answer, and report, until every address is answered or the time is up."""
    timeout = time_limit(args)
    # An enclave that boots while Python still loads trio must find the port open: so listen with
    # what is loaded already, and import the rest afterwards.
    with listening(args) as listeners:
        return _answer(listeners, timeout, args, console, stop)


def _answer(
    listeners: Sequence[Listener],
    timeout: float,
    args: argparse.Namespace,
    console: Console,
    stop: Stop,
) -> int:
    import trio

    from .answering import answer, printing_events, report_to
    from .explaining import explain_timeout
    from .waiting import waiting

    # Events that nobody sees, and that --timeout need not explain, are not even made.
    unseen = args.quiet and timeout == math.inf and not console.is_terminal

    async def run() -> int:
        async with printing_events(console.print, args) as show:
            reporter = report_to(show, args)
            with trio.move_on_after(timeout) as deadline:
                async with waiting(console, reporter.awaited):
                    await answer(listeners, args, None if unseen else reporter)
        if not deadline.cancelled_caught:
            return exits.DONE
        explain_timeout(reporter, timeout, console)
        return exits.TIMED_OUT

    return stop.run(run)
