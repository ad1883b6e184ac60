# SPDX-License-Identifier: Apache-2.0
"""``nitrohb completion``: for who has no package manager that puts it where the shell looks."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Final

    from .console import Console
    from .stop import Stop

__all__ = ["SHELLS", "completion"]

SHELLS: Final = ("bash", "zsh", "fish")


def completion(args: argparse.Namespace, console: Console, _stop: Stop) -> int:
    """Print the script that the shell is to read."""
    from importlib.resources import files  # here, as no server needs it

    from . import exits

    script = files(__package__ or "").joinpath("completions", f"nitrohb.{args.shell}")
    console.print(script.read_text("utf-8").rstrip("\n"))
    return exits.FAILED if console.has_lost else exits.DONE
