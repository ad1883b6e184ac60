# SPDX-License-Identifier: Apache-2.0
"""``nitrohb run``: listen, then start a command and wait for the heartbeat of its enclave."""

from __future__ import annotations

import signal

from .serve import listening, tell_ready

# This module is loaded before the script listens: see cli/__init__.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .output import Output
    from .settings import RunSettings
    from .signals import Signals


def run(settings: RunSettings, output: Output, signals: Signals) -> int:
    """Listen, start the command, answer and report heartbeats; return the exit code."""
    output.level, output.events = settings.answer.level, output.stderr
    signals.install_forwarded()
    # While SIGCHLD is ignored, the kernel drops the exit status of the command.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with listening(settings.answer, output) as listeners:
        tell_ready(settings.answer.ready_fd, output)
        from .supervise import Supervisor  # loads trio

        supervisor = Supervisor(settings, listeners, output)
        return signals.run(lambda: supervisor.run(signals), supervisor.on_signal)
