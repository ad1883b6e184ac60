# SPDX-License-Identifier: Apache-2.0
"""``nitrohb unlisten``: remove an address from a running server. This needs no extra."""

import os
from urllib.parse import quote

from .api_client import change
from .output import Output
from .settings import UnlistenSettings
from .signals import Signals


def unlisten(settings: UnlistenSettings, _: Output, signals: Signals) -> int:
    """Remove one address, which is closed when this returns 0."""
    address = quote(os.fsencode(str(settings.address)), safe="")
    return change(settings.api, f"DELETE /listeners/{address}", None, signals)
