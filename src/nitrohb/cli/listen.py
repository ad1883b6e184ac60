# SPDX-License-Identifier: Apache-2.0
"""``nitrohb listen``: have a running server listen on another address. Needs no extra."""

from .api_client import change
from .output import Output
from .settings import ListenSettings
from .signals import Signals


def listen(settings: ListenSettings, _: Output, signals: Signals) -> int:
    """Add one address. When this returns, it accepts connections."""
    return change(settings.api, "POST /listeners", {"address": str(settings.address)}, signals)
