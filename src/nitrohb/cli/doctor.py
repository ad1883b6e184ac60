# SPDX-License-Identifier: Apache-2.0
"""``nitrohb doctor``: what this machine can do, what is missing, how to mend it."""

from ..errors import NitrohbError
from ..remedies import lack_error
from . import exits
from .output import Output
from .settings import DoctorSettings
from .signals import Signals

__all__ = ["doctor"]


def doctor(settings: DoctorSettings, output: Output, signals: Signals) -> int:
    """Examine the machine, and print what was found."""
    from ..doctor.examining import examine
    from ..doctor.report import Verdict
    from .diagnosis import to_json, to_text

    async def run() -> int:
        report = await examine(settings.listen, settings.max_pending)
        output.print(to_json(report) if settings.format == "json" else to_text(report))
        return exits.FAILED if report.overall is Verdict.FAILED else exits.DONE

    try:
        return signals.run(run)
    except OSError as error:  # of trio, which needs some descriptors to begin with
        why = lack_error(error.errno) or error
        raise NitrohbError(f"the examination cannot begin: {why}") from error
