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
    except Exception as error:  # not "except*", which needs memory itself
        if not _is_lack_of_memory(error):
            raise
    sys.exit("nitrohb: this process cannot have more memory\nRaise its limit (ulimit -v).")


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory was refused to Python, to the dynamic linker, or to a system call."""
    match error:
        case BaseExceptionGroup():
            return all(map(_is_lack_of_memory, error.exceptions))
        case SystemError():  # Python has lost the MemoryError, for which there was no memory
            return "exception" in str(error)
        case ImportError() | OSError():
            text = str(error).lower()
            return "map segment" in text or "allocate memory" in text
        case _:
            return isinstance(error, MemoryError)


if __name__ == "__main__":
    sys.exit(main())
