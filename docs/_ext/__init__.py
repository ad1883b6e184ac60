# SPDX-License-Identifier: Apache-2.0
"""What the documentation takes from the code itself, so that the two cannot drift apart."""

from typing import Any

__all__ = ["setup"]


def setup(app: Any) -> dict[str, bool]:
    """Add it all to Sphinx."""
    from . import api, diagrams, tables  # here, because the tests do without Sphinx

    for part in (api, diagrams, tables):
        part.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
