# SPDX-License-Identifier: Apache-2.0
"""The console script ``nitrohb``: parse, call, print, exit code."""

from __future__ import annotations

import sys

from ..errors import NitrohbError, UsageError
from . import exits
from .stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .console import Console

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script.

    Args:
        argv: Its arguments, without its name. Default: those of this process.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage, 124 timed out, 128 + n after signal n; from
            ``run`` that of its command, or 125 to 127.
            Its handlers of signals stay, and after ``run`` it goes on to adopt orphans: it is
            meant to be the whole process.

    Raises:
        SystemExit: After ``--help`` and ``--version``, and for arguments that cannot be parsed.
    """
    # Before anything else is loaded, and to the end of the process: a signal is never a traceback.
    stop = Stop()
    stop.install()
    from .console import Console
    from .levels import NUMBERS
    from .parser import parse

    args = parse(sys.argv[1:] if argv is None else argv)
    console = Console()
    console.level = NUMBERS[args.log_level]
    status = exits.DONE
    try:
        status = args.command(args, console, stop)
    except* NitrohbError as group:
        status = _report(group, console)
    except* OSError as group:
        status = _report(_in_words(group), console)
    finally:
        console.close()
    return status


def _in_words(group: BaseExceptionGroup[OSError]) -> BaseExceptionGroup[NitrohbError]:
    """A lack of descriptors, which can show anywhere, in words; all else is a bug, and raised."""
    from ..remedies import descriptor_shortage

    errors = [descriptor_shortage(error.errno) for error in _leaves(group)]
    if None in errors:
        raise group
    return BaseExceptionGroup("", [error for error in errors[:1] if error is not None])


def _leaves(group: BaseExceptionGroup[OSError]) -> Iterator[OSError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _report(group: BaseExceptionGroup[NitrohbError], console: Console) -> int:
    """Say in words what went wrong, and return the exit code for it."""
    status = exits.FAILED
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            status = _report(error, console)
        else:
            console.say(f"nitrohb: {error}")
            status = exits.USAGE if isinstance(error, UsageError) else exits.FAILED
    return status
