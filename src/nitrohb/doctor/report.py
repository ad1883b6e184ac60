# SPDX-License-Identifier: Apache-2.0
"""What an examination found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

__all__ = ["Check", "Finding", "Report", "Verdict"]


class Verdict(StrEnum):
    """What a check means for whoever wants to answer heartbeats."""

    OK = "ok"
    INFO = "info"  # it is not there, and only some need it
    WARNING = "warning"  # listening works, but heartbeats may not arrive
    FAILED = "failed"  # what is asked for could not work
    SKIPPED = "skipped"  # it cannot be told


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and what it rests on.

    Attributes:
        verdict: The verdict.
        evidence: What was seen, in words.
        remedy: What to do about it, in words, or None if there is nothing to be done.
    """

    verdict: Verdict
    evidence: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A check that was made.

    Attributes:
        name: Its name for programs, which does not change.
        title: Its name for people.
        subject: The address that it is about, or None.
        finding: What it found.
    """

    name: str
    title: str
    subject: str | None
    finding: Finding

    def to_json(self) -> dict[str, str | None]:
        """The check as an object for JSON."""
        return {"name": self.name, "subject": self.subject, **asdict(self.finding)}


@dataclass(frozen=True, slots=True)
class Report:
    """All that an examination found.

    Attributes:
        checks: The checks, in the order in which to read them.
    """

    checks: Sequence[Check]

    @property
    def overall(self) -> Verdict:
        """The worst verdict: failed, warning, or else ok."""
        verdicts = {check.finding.verdict for check in self.checks}
        grave = (verdict for verdict in (Verdict.FAILED, Verdict.WARNING) if verdict in verdicts)
        return next(grave, Verdict.OK)
