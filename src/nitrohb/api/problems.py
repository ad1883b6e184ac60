# SPDX-License-Identifier: Apache-2.0
"""What went wrong with a request, as ``application/problem+json`` (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

__all__ = ["ProblemError", "to_response"]

MEDIA_TYPE: Final = "application/problem+json"


class ProblemError(Exception):
    """A request that cannot be answered as it was meant.

    Attributes:
        status: The HTTP status.
        detail: What is wrong, in words.
        headers: Headers that the response has beside the usual ones.
        more: Members that the JSON object has beside the usual ones.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more or {}


def to_response(problem: ProblemError) -> Response:
    """The response that tells a client of a problem."""
    content = {
        "type": "about:blank",  # there is no more to the problem than its status says
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
    }
    return Response(
        json.dumps(content | dict(problem.more)),
        problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )
