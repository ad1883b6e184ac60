# SPDX-License-Identifier: Apache-2.0
"""The page at ``GET /``: one file, which needs nothing from anywhere else, and may load nothing.

Its script and its style are allowed by their hashes alone (Content-Security-Policy): what a peer or
a path might smuggle into the page is never executed.
"""

import base64
import hashlib
from importlib import resources
from typing import Final

__all__ = ["HEADERS", "PAGE"]

PAGE: Final = resources.files("nitrohb.api").joinpath("page.html").read_text("utf-8")


def _hash(tag: str) -> str:
    """The hash, as a policy has it, of what stands between a tag that occurs once and its end."""
    content = PAGE.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


HEADERS: Final = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash('script')}",
            f"style-src {_hash('style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "referrer-policy": "no-referrer",
}
