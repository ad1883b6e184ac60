# SPDX-License-Identifier: Apache-2.0
"""``nitrohb listen``: add an address to a running server. This needs no extra."""

from .api_client import change
from .output import Output
from .settings import ListenSettings
from .signals import Signals


def listen(settings: ListenSettings, _: Output, signals: Signals) -> int:
    """Add one address, which accepts connections when this returns 0."""
    return change(settings.api, "POST /listeners", {"address": str(settings.address)}, signals)
