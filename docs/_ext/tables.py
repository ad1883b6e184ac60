# SPDX-License-Identifier: Apache-2.0
"""To come."""


def setup(app: object) -> None:
    """Add nothing yet."""
