# SPDX-License-Identifier: Apache-2.0
"""The picture of the live page in the README: what it shows, and whether it is up to date.

``nox -s browser -- --write`` takes it. Pixels differ between machines, so the picture has the
SHA-256 of its sources in it, and a test compares that.
"""

import hashlib
from pathlib import Path
from typing import Final

__all__ = ["BOOTED", "FAILED", "PICTURE", "WIDTH", "digest"]

ROOT: Final = Path(__file__).parents[2]
PICTURE: Final = ROOT / "docs" / "page.png"

WIDTH: Final = 920  # pixels of CSS: the page's text is then about as large as the README's
BOOTED: Final = ("hybrid:web/vsock:9000", "hybrid:signer/vsock:9000")
FAILED: Final = "hybrid:vault/vsock:9000"

_SOURCES: Final = (ROOT / "src" / "nitrohb" / "api" / "page.html", Path(__file__))


def digest() -> str:
    """The SHA-256 of what decides how the page looks."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
