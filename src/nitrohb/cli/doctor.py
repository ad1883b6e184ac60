# SPDX-License-Identifier: Apache-2.0
"""``nitrohb doctor``: check whether a heartbeat can arrive here, and print the reasons."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from .. import __version__
from ..doctor.examine import examine
from ..doctor.verdicts import KINDS, CheckResult, Verdict, overall
from ..errors import NitrohbError
from ..remedies import descriptor_shortage
from . import exit_codes
from .output import Output
from .settings import DoctorSettings
from .signals import Signals


def doctor(settings: DoctorSettings, output: Output, signals: Signals) -> int:
    """Examine this machine, and print the results.

    Returns:
        1 if a heartbeat cannot arrive, 0 if it can or the checks found no obstacle.
    """

    async def run() -> int:
        checks = await examine(
            settings.listen,
            settings.max_pending,
            kind=settings.kind,
            socket_mode=settings.socket_mode,
            socket_group=settings.socket_group,
        )
        if settings.format == "json":
            output.print_out(to_json(checks))
        else:
            output.print_out(to_text(checks, settings.kind, _width()))
        failed = overall(checks) is Verdict.FAILED
        return exit_codes.FAILED if failed else exit_codes.DONE

    try:
        return signals.run(run)
    except OSError as error:  # trio itself needs some descriptors
        why = descriptor_shortage(error.errno) or error
        raise NitrohbError(f"cannot begin the checks: {why}") from error


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


def to_text(checks: Sequence[CheckResult], kind: str | None, width: int | None) -> str:
    """Format checks as lines, the answer first, and wrap them to the width unless it is None."""
    lines = [line for check in checks for line in _lines(check, width)]
    return "\n".join([_wrap(_answer(checks, KINDS[kind][0]), width, 0), *lines])


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


def _answer(checks: Sequence[CheckResult], who: str) -> str:
    """Say in one sentence whether the heartbeat of an enclave can arrive."""
    heartbeat = f"the heartbeat of {who}"
    reasons = {
        "listen": "nitrohb cannot listen on {}",
        "reach": f"nitrohb can listen on {{}}, but {heartbeat} cannot arrive there",
    }
    seen = {check.finding.verdict: check for check in reversed(checks)}
    if bad := seen.get(Verdict.FAILED):
        reason = reasons.get(bad.name, bad.title).format(bad.subject)
        return f"No: {reason}: {bad.finding.evidence}."
    for check in checks:
        if (check.name, check.finding.verdict) == ("reach", Verdict.SKIPPED):
            return (
                f"Perhaps: nitrohb can listen on {check.subject}, but whether {heartbeat} can"
                f" arrive there is unknown: {check.finding.evidence}."
            )
    where = ", ".join(str(check.subject) for check in checks if check.name == "listen")
    but = ", but see the warnings" if overall(checks) is Verdict.WARNING else ""
    return f"Yes: {heartbeat} can arrive on {where}{but}."


def _wrap(text: str, width: int | None, indent: int) -> str:
    if width is None:
        return text
    return textwrap.fill(
        text, max(width, indent + 20), subsequent_indent=" " * indent, break_on_hyphens=False
    )
