# SPDX-License-Identifier: Apache-2.0
"""argparse, with our manners."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from . import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

__all__ = ["QUICK_FORMATTER", "Parser"]

# For each option that it adds, argparse makes a formatter, only to see that its metavar fits. One
# that is not told the width of a line loads shutil, to ask for the terminal's: that takes 3 ms.
_FORMATTER: Final = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
QUICK_FORMATTER: Final = partial(_FORMATTER, width=80)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where to read more in another."""

    def format_help(self) -> str:
        """The help, as wide as the terminal."""
        self.formatter_class = _FORMATTER
        return super().format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print as all else is printed: to the journal with a priority, and if it can be."""
        from .console import Console

        console = Console()
        say = console.print if file is sys.stdout and file is not sys.stderr else console.say
        say(message.removesuffix("\n"))
        console.close()
        if console.has_lost:  # the help, or the version, which is all that was asked for
            sys.exit(exits.FAILED)

    def error(self, message: str) -> NoReturn:
        """End with a message about a mistake."""
        message = message.replace("ignored explicit argument", "takes no value, got")
        self.exit(exits.USAGE, f"{self.prog}: {message}\nTry: {self.prog} --help\n")
