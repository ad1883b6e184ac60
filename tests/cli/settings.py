# SPDX-License-Identifier: Apache-2.0
"""Settings for tests without a command line: the defaults, and the values that a test gives."""

import math
from typing import Any

from nitrohb.cli.output import DEBUG
from nitrohb.cli.settings import AnswerSettings, RunSettings


def server_settings(**fields: Any) -> AnswerSettings:
    defaults: dict[str, Any] = {
        "listen": [],
        "keep": False,
        "allow_cids": None,
        "allow_uids": None,
        "any_byte": False,
        "max_pending": 1024,
        "handshake_timeout": 5.0,
        "timeout": math.inf,
        "warning": "",
        "socket_mode": 0o600,
        "socket_group": None,
        "events": None,
        "ready_fd": None,
        "event_level": DEBUG,
        "level": DEBUG,
    }
    return AnswerSettings(**defaults | fields)


def run_settings(*argv: str, kill_after: float = 10.0, **fields: Any) -> RunSettings:
    return RunSettings(
        answer=server_settings(**fields),
        argv=argv,
        kill_after=kill_after,
        console=None,
        console_log=None,
    )
