# SPDX-License-Identifier: Apache-2.0
"""The console script ``nitrohb``, and ``python -m nitrohb``. What comes before anything else."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # signal itself takes milliseconds to load


def main() -> int:
    """Run the console script: see :func:`nitrohb.cli.main`. A lack of memory is one message."""
    # Until it has handlers, SIGINT ends it without a traceback, as SIGTERM does.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from .cli import main as run

        return run()
    except* (MemoryError, ImportError, OSError) as group:
        if group.split(_is_lack_of_memory)[1] is not None:
            raise
    sys.exit("nitrohb: this process cannot have more memory\nRaise its limit (ulimit -v).")


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory was refused to Python, to the dynamic linker, or to a system call."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "map segment" in text or "allocate memory" in text


if __name__ == "__main__":
    sys.exit(main())
