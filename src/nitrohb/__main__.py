# SPDX-License-Identifier: Apache-2.0
"""The entry point of ``nitrohb`` and ``python -m nitrohb``. It loads as little as possible."""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # signal itself takes milliseconds to load


def main() -> int:
    """Run ``nitrohb.cli.main()``. If memory runs out, report it in one line."""
    # Until there are handlers, SIGINT ends nitrohb without a traceback.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        from .cli import main as run

        return run()
    except Exception as error:  # not "except*", which needs memory
        if not _is_lack_of_memory(error):
            raise
    sys.exit("nitrohb: this process cannot get more memory\nRaise its limit (ulimit -v).")


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether Python, the dynamic linker or a system call got no memory."""
    match error:
        case BaseExceptionGroup():
            return all(map(_is_lack_of_memory, error.exceptions))
        case SystemError():  # there was no memory for the MemoryError
            return "exception" in str(error)
        case ImportError() | OSError():
            text = str(error).lower()
            return "map segment" in text or "allocate memory" in text
        case _:
            return isinstance(error, MemoryError)


if __name__ == "__main__":
    sys.exit(main())
