# SPDX-License-Identifier: Apache-2.0
"""What the doctor found, for people and programs."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator

from .. import __version__
from ..doctor.report import Check, Report, Verdict

__all__ = ["to_json", "to_text"]

_TABLE_WIDTH = 72  # characters: in less, a table has words broken in two


def to_json(report: Report) -> str:
    """A report as one JSON object, with what a bug report needs to know besides."""
    found = {
        "overall": report.overall,
        "nitrohb": __version__,
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
        "checks": [check.to_json() for check in report.checks],
    }
    return json.dumps(found, indent=2)


def to_text(report: Report) -> str:
    """A report as a table on a terminal, if rich is there, or else as lines."""
    width = None
    if sys.stdout is not None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        if width >= _TABLE_WIDTH and (table := _table(report, width)):
            return f"{table}{_sum(report, width)}"
    return "\n".join([*_lines(report, width), _sum(report, width)])


def title(check: Check) -> str:
    """What a check is called in front of a person: its title, and its address if it has one."""
    return check.title if check.subject is None else f"{check.title} {check.subject}"


def _table(report: Report, width: int) -> str | None:
    try:
        from .diagnosis_table import to_table
    except ImportError:
        return None
    return to_table([(title(check), check.finding) for check in report.checks], width)


def _lines(report: Report, width: int | None) -> Iterator[str]:
    for check in report.checks:
        finding = check.finding
        yield _wrap(f"{finding.verdict:<8} {title(check)}: {finding.evidence}", width, 9)
        if finding.remedy is not None:
            yield _wrap(f"{'':8} -> {finding.remedy}", width, 12)


def _sum(report: Report, width: int | None) -> str:
    """The last word: whether the addresses can be listened on."""
    where = ", ".join(check.subject for check in report.checks if check.subject is not None)
    match report.overall:
        case Verdict.FAILED:
            words = "nitrohb serve would fail here: see above what has failed."
        case Verdict.WARNING:
            words = f"nitrohb serve can listen on {where}, but see the warnings."
        case _:
            words = f"nitrohb serve can listen on {where}."
    return _wrap(words, width, 0)


def _wrap(text: str, width: int | None, indent: int) -> str:
    if width is None:
        return text
    return textwrap.fill(
        text, max(width, indent + 20), subsequent_indent=" " * indent, break_on_hyphens=False
    )
