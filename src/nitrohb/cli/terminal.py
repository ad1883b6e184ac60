# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and the like: signals that a terminal sends to a whole process group by itself."""

import os
import signal
from contextlib import suppress
from typing import Final

__all__ = ["is_sent_by_terminal"]

_KEYS: Final = (signal.SIGINT, signal.SIGQUIT)  # of the keys VINTR and VQUIT, termios(3)


def is_sent_by_terminal(number: int) -> bool:
    """Whether our whole process group has had a signal that came to us.

    A signal does not say where it comes from. When we are in the foreground of a terminal, it is
    the terminal's, as far as anybody can tell; then a second one from us would interrupt what a
    process does about the first.
    """
    return number in _KEYS and _is_in_foreground()


def _is_in_foreground() -> bool:
    with suppress(OSError), open("/dev/tty", "rb", buffering=0) as tty:  # our terminal, if any
        return os.tcgetpgrp(tty.fileno()) == os.getpgrp()
    return False
