# SPDX-License-Identifier: Apache-2.0
"""What the doctor found, as a table on a terminal. It needs rich."""

from collections.abc import Iterable
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..doctor.report import Finding, Verdict

__all__ = ["to_table"]

_STYLES: Final = {
    Verdict.OK: "green",
    Verdict.INFO: "cyan",
    Verdict.WARNING: "bold yellow",
    Verdict.FAILED: "bold red",
    Verdict.SKIPPED: "dim",
}


def to_table(rows: Iterable[tuple[str, Finding]], width: int) -> str:
    """Draw findings, each with a title, in the colours that the terminal on stdout has."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    table.add_column("verdict", no_wrap=True)
    table.add_column("check", max_width=22, overflow="fold")
    table.add_column("finding", overflow="fold")
    for title, finding in rows:
        table.add_row(
            Text(finding.verdict, _STYLES[finding.verdict]), Text(title), _details(finding)
        )
    console = Console(width=width)
    with console.capture() as drawn:
        console.print(table)
    return drawn.get()


def _details(finding: Finding) -> Text:
    # Text, and no markup: an address may have brackets in it.
    details = Text(finding.evidence)
    if finding.remedy is not None:
        details.append(f"\n-> {finding.remedy}", "italic")
    return details
