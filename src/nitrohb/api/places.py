# SPDX-License-Identifier: Apache-2.0
"""How many may be answered at a time by what takes long."""

from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from .problems import ProblemError

__all__ = ["CLAIMS", "Places", "READERS"]

READERS: Final = 64
CLAIMS: Final = 128
"""Together less than there may be connections: they leave room for short questions."""


class Places:
    """So many places, each for one client as long as it is answered.

    Args:
        count: How many there are.
        what: What those do who have them all.
    """

    def __init__(self, count: int, what: str) -> None:
        self._free = self._count = count
        self._what = what

    @contextmanager
    def take(self) -> Generator[None]:
        """Have a place while the block runs.

        Raises:
            ProblemError: 503: there is none left.
        """
        if not self._free:
            detail = f"{self._count} others {self._what} already"
            # His connection would keep others out, for as long as it may be idle.
            close = {"connection": "close"}
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=close)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1
