# SPDX-License-Identifier: Apache-2.0
"""The console script ``nitrohb``: it reads the command line, calls the command, and exits.

**It listens before it loads trio**: an enclave that boots meanwhile finds the port open.
tests/test_startup.py lists the modules that are loaded before the listen. Only these modules set
``TYPE_CHECKING = False``, to load neither typing nor dataclasses. The command or the option that
needs another module loads it.
"""

from __future__ import annotations

import sys

from ..errors import NitrohbError, UsageError, leaves
from . import exit_codes
from .signals import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .output import Output


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script. Its signal handlers and child subreaper stay set afterwards.

    Args:
        argv: The arguments, without the name of the script. Default: ``sys.argv[1:]``.

    Returns:
        The exit code: 0 done, 1 failed, 2 usage, 124 timed out, 128 + n after signal n. ``run``
            returns the exit code of its command, or 125 to 127.

    Raises:
        SystemExit: After ``--help`` and ``--version``.
    """
    # First, and until the process ends: then no signal shows a traceback.
    signals = Signals()
    signals.install()
    from .output import Output
    from .parser import parse, wants_json

    argv = sys.argv[1:] if argv is None else argv
    output = Output()
    output.is_json = wants_json(argv)
    status, needs_output = exit_codes.DONE, False
    try:
        settings = parse(argv)
        needs_output = settings.needs_output
        name = f"{__package__}.{settings.command}"
        __import__(name)  # importlib is not loaded yet
        status = getattr(sys.modules[name], settings.command)(settings, output, signals)
    except* NitrohbError as group:
        status = _print_errors(group, output)
    except* OSError as group:
        status = _print_errors(_explain_os_errors(group), output)
    finally:
        output.close()
    return exit_codes.FAILED if needs_output and output.has_dropped_lines and not status else status


def _explain_os_errors(group: BaseExceptionGroup[OSError]) -> BaseExceptionGroup[NitrohbError]:
    """Explain a lack of descriptors, which can occur anywhere. Any other error is a bug."""
    errors = [_explain(error) for error in leaves(group)]
    if None in errors:
        raise group
    return BaseExceptionGroup("", [error for error in errors[:1] if error is not None])


def _explain(error: OSError) -> NitrohbError | None:
    from ..remedies import descriptor_shortage

    # trio can start a compiler to find a C library, and that needs a temporary directory. tempfile
    # raises this error for a lack of descriptors, too.
    if isinstance(error, FileNotFoundError) and "usable temporary directory" in str(error):
        return NitrohbError(
            f"cannot load trio: {error.strerror}\n"
            "Set TMPDIR to a directory in which you can write, or raise ulimit -n (open files)."
        )
    return descriptor_shortage(error.errno)


def _print_errors(group: BaseExceptionGroup[NitrohbError], output: Output) -> int:
    """Print the errors, and return the exit code."""
    status = exit_codes.FAILED
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            status = max(status, _print_errors(error, output))
        else:
            output.print_err(f"nitrohb: {error}")
            if isinstance(error, UsageError):
                status = exit_codes.USAGE
    return status
