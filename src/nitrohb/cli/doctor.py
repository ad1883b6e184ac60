# SPDX-License-Identifier: Apache-2.0
"""``nitrohb doctor``: what this machine can do, what it lacks, and what helps."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from .. import __version__
from ..doctor.examine import examine
from ..doctor.verdicts import CheckResult, Verdict, overall
from ..errors import NitrohbError
from ..remedies import descriptor_shortage
from . import exit_codes
from .output import Output
from .settings import DoctorSettings
from .signals import Signals


def doctor(settings: DoctorSettings, output: Output, signals: Signals) -> int:
    """Examine this machine and print what was found."""

    async def run() -> int:
        checks = await examine(settings.listen, settings.max_pending)
        found = to_json(checks) if settings.format == "json" else to_text(checks, _width())
        output.print_out(found)
        failed = overall(checks) is Verdict.FAILED
        return exit_codes.FAILED if failed else exit_codes.DONE

    try:
        return signals.run(run)
    except OSError as error:  # trio itself needs some descriptors
        why = descriptor_shortage(error.errno) or error
        raise NitrohbError(f"the examination cannot begin: {why}") from error


def to_json(checks: Sequence[CheckResult]) -> str:
    """Format checks as one JSON object, with the versions that a bug report needs."""
    found = {
        "overall": overall(checks),
        "nitrohb": __version__,
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
        "checks": [check.to_json() for check in checks],
    }
    return json.dumps(found, indent=2)


def to_text(checks: Sequence[CheckResult], width: int | None) -> str:
    """Format checks as lines, and wrap them to a width if there is one."""
    lines = [line for check in checks for line in _lines(check, width)]
    return "\n".join([*lines, _wrap(_conclusion(checks), width, 0)])


def _width() -> int | None:
    """The width of the terminal on stdout, or None if stdout is not a terminal."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


def _lines(check: CheckResult, width: int | None) -> Iterator[str]:
    finding = check.finding
    title = check.title if check.subject is None else f"{check.title} {check.subject}"
    yield _wrap(f"{finding.verdict:<8} {title}: {finding.evidence}", width, 9)
    if finding.remedy is not None:
        yield _wrap(f"{'':8} -> {finding.remedy}", width, 12)


def _conclusion(checks: Sequence[CheckResult]) -> str:
    where = ", ".join(check.subject for check in checks if check.subject is not None)
    verdict = overall(checks)
    if verdict is Verdict.FAILED:
        return "nitrohb serve would fail here. See what failed above."
    but = ", but see the warnings" if verdict is Verdict.WARNING else ""
    return f"nitrohb serve can listen on {where}{but}."


def _wrap(text: str, width: int | None, indent: int) -> str:
    if width is None:
        return text
    return textwrap.fill(
        text, max(width, indent + 20), subsequent_indent=" " * indent, break_on_hyphens=False
    )
