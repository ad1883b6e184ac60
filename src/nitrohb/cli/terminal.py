# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and the like: signals that a terminal sends to a whole process group by itself."""

import os
import signal
from contextlib import suppress
from typing import Final

__all__ = ["is_sent_by_terminal_to"]

_KEYS: Final = (signal.SIGINT, signal.SIGQUIT)  # of the keys VINTR and VQUIT, termios(3)


def is_sent_by_terminal_to(pid: int, number: int) -> bool:
    """Whether a signal that came to us has come to another process as well.

    A terminal sends it to a whole process group, so that a process in another one, say because it
    was started by timeout(1), has not had it.

    A signal does not say where it comes from. When we are in the foreground of a terminal, it is
    the terminal's, as far as anybody can tell; then a second one from us would interrupt what a
    process does about the first.
    """
    return number in _KEYS and _is_in_our_group(pid) and _is_in_foreground()


def _is_in_our_group(pid: int) -> bool:
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == os.getpgrp()
    return True  # it has ended: there is nobody to be told


def _is_in_foreground() -> bool:
    with suppress(OSError), open("/dev/tty", "rb", buffering=0) as tty:  # our terminal, if any
        return os.tcgetpgrp(tty.fileno()) == os.getpgrp()
    return False
