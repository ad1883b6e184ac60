# SPDX-License-Identifier: Apache-2.0
"""``nitrohb doctor``: what this machine can do, what it lacks, and what helps."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator

from .. import __version__
from ..doctor.examine import examine
from ..doctor.verdicts import Check, Report, Verdict
from ..errors import NitrohbError
from ..remedies import descriptor_shortage
from . import exit_codes
from .output import Output
from .settings import DoctorSettings
from .signals import Signals


def doctor(settings: DoctorSettings, output: Output, signals: Signals) -> int:
    """Examine this machine and print what was found."""

    async def run() -> int:
        report = await examine(settings.listen, settings.max_pending)
        output.print_out(
            to_json(report) if settings.format == "json" else to_text(report, _width())
        )
        return exit_codes.FAILED if report.overall is Verdict.FAILED else exit_codes.DONE

    try:
        return signals.run(run)
    except OSError as error:  # trio itself needs some descriptors
        why = descriptor_shortage(error.errno) or error
        raise NitrohbError(f"the examination cannot begin: {why}") from error


def to_json(report: Report) -> str:
    """Format a report as one JSON object, with the versions that a bug report needs."""
    found = {
        "overall": report.overall,
        "nitrohb": __version__,
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
        "checks": [check.to_json() for check in report.checks],
    }
    return json.dumps(found, indent=2)


def to_text(report: Report, width: int | None) -> str:
    """Format a report as lines, and wrap them to a width if there is one."""
    lines = [line for check in report.checks for line in _lines(check, width)]
    return "\n".join([*lines, _wrap(_conclusion(report), width, 0)])


def _width() -> int | None:
    """The width of the terminal on stdout, or None if stdout is not a terminal."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


def _lines(check: Check, width: int | None) -> Iterator[str]:
    finding = check.finding
    title = check.title if check.subject is None else f"{check.title} {check.subject}"
    yield _wrap(f"{finding.verdict:<8} {title}: {finding.evidence}", width, 9)
    if finding.remedy is not None:
        yield _wrap(f"{'':8} -> {finding.remedy}", width, 12)


def _conclusion(report: Report) -> str:
    where = ", ".join(check.subject for check in report.checks if check.subject is not None)
    match report.overall:
        case Verdict.FAILED:
            return "nitrohb serve would fail here. See what failed above."
        case Verdict.WARNING:
            return f"nitrohb serve can listen on {where}, but see the warnings."
        case _:
            return f"nitrohb serve can listen on {where}."


def _wrap(text: str, width: int | None, indent: int) -> str:
    if width is None:
        return text
    return textwrap.fill(
        text, max(width, indent + 20), subsequent_indent=" " * indent, break_on_hyphens=False
    )
