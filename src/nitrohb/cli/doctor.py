# SPDX-License-Identifier: Apache-2.0
"""``nitrohb doctor``: what this machine can do, what is missing, how to mend it."""

import argparse

from ..errors import NitrohbError
from ..remedies import lack_error
from . import exits
from .console import Console
from .listening import addresses
from .stop import Stop

__all__ = ["doctor"]


def doctor(args: argparse.Namespace, console: Console, stop: Stop) -> int:
    """Examine the machine, and print what was found."""
    from ..doctor.examining import examine
    from ..doctor.report import Verdict
    from .diagnosis import to_json, to_text

    wanted = addresses(args)

    async def run() -> int:
        report = await examine(wanted, args.max_pending)
        console.print(to_json(report) if args.format == "json" else to_text(report))
        failed = console.has_lost or report.overall is Verdict.FAILED
        return exits.FAILED if failed else exits.DONE

    try:
        return stop.run(run)
    except OSError as error:  # of trio, which needs some descriptors to begin with
        why = lack_error(error.errno) or error
        raise NitrohbError(f"the examination cannot begin: {why}") from error
