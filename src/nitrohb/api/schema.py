# SPDX-License-Identifier: Apache-2.0
"""``GET /openapi.json``: describes the interface of the running server, with its addresses.

The template is the file ``openapi.json``. A test compares its numbers with those of the code.
"""

import json
from collections.abc import Iterable
from importlib import resources
from typing import Any, Final

from .. import __version__
from ..addresses import Address, InheritedSocket, VsockAddress

_TEMPLATE: Final = resources.files("nitrohb.api").joinpath("openapi.json").read_text("utf-8")


def create_document(addresses: Iterable[Address], *, may_listen: bool = True) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document.

    Args:
        addresses: The listen addresses of the heartbeat server.
        may_listen: Whether clients may add and remove addresses.
    """
    listen = list(addresses)
    names = [str(address) for address in listen]
    document: dict[str, Any] = json.loads(_TEMPLATE)
    document["info"]["version"] = __version__
    schemas = document["components"]["schemas"]
    schemas["ListenAddress"]["enum"] = names
    for name in ("Claim", "Rearm"):
        schemas[name]["examples"] = [{"address": first} for first in names[:1]]
    if not any(isinstance(address, VsockAddress | InheritedSocket) for address in listen):
        del schemas["Claim"]["properties"]["cid"]  # no peer has a CID
    if not may_listen:
        del document["paths"]["/listeners"], document["paths"]["/listeners/{address}"]
    return document
