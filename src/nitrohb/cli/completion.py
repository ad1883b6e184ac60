# SPDX-License-Identifier: Apache-2.0
"""``nitrohb completion``: for users whose package manager did not install the completions."""

from importlib.resources import files

from . import exits
from .output import Output
from .settings import CompletionSettings
from .signals import Signals

__all__ = ["completion"]


def completion(settings: CompletionSettings, output: Output, _signals: Signals) -> int:
    """Print the script for a shell."""
    script = files(__package__ or "").joinpath("completions", f"nitrohb.{settings.shell}")
    output.print(script.read_text("utf-8").rstrip("\n"))
    return exits.DONE
