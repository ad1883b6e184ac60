# SPDX-License-Identifier: Apache-2.0
"""Draw what ``nitrohb demo`` prints in a terminal, as an SVG."""

import io
import re
import subprocess
import sys
import textwrap
from itertools import count
from typing import Final

from rich.console import Console

__all__ = ["demo_picture"]

_COLUMNS: Final = 100  # as wide as a README at the size of its text
_LABEL: Final = len("enclave  ")

# Samples of what differs from run to run, so that each run gives the same picture.
_SAMPLES: Final = {
    r"(?<=unix:)\S*/nitrohb-\w{8}/": "/tmp/nitrohb-x2h_0vkw/",
    r"(?<=pid=)\d+": "4711",
    r"(?<=[ug]id=)\d+": "1000",
    r"(?<=listening_seconds=)[\d.e-]+": "0.017294",
    r"(?<=echo_seconds=)[\d.e-]+": "0.000172",
    r"\d+\.\d(?= ms\b)": "0.7",
}
_TIME: Final = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"

# rich names a font that a browser would load from another host. GitHub forbids that.
_FONT: Final = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def demo_picture() -> str:
    """Run the demo, and draw its command and its output."""
    command = [sys.executable, "-m", "nitrohb", "demo"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    console = Console(file=io.StringIO(), record=True, width=_COLUMNS, no_color=False)
    console.print("[bold green]$[/] [bold]nitrohb demo[/]", highlight=False)
    for line in _with_samples(printed).splitlines():
        console.print(_wrapped(line), highlight=False, markup=False)
    return _FONT.sub("", console.export_svg(title="", unique_id="demo"))


def _with_samples(text: str) -> str:
    for pattern, sample in _SAMPLES.items():
        text = re.sub(pattern, sample, text)
    microseconds = count(945114, 8_647)
    return re.sub(_TIME, lambda _: f"2026-11-22T21:03:25.{next(microseconds)}Z", text)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _COLUMNS, subsequent_indent=" " * _LABEL, break_on_hyphens=False)
