# SPDX-License-Identifier: Apache-2.0
"""``nitrohb completion``: for shells that do not find the installed completions."""

from importlib.resources import files

from . import exit_codes
from .output import Output
from .settings import CompletionSettings
from .signals import Signals


def completion(settings: CompletionSettings, output: Output, _signals: Signals) -> int:
    """Print the completion script for a shell."""
    script = files(__package__ or "").joinpath("completions", f"nitrohb.{settings.shell}")
    output.print_out(script.read_text("utf-8").rstrip("\n"))
    return exit_codes.DONE
