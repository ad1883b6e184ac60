# SPDX-License-Identifier: Apache-2.0
"""Check that the version, the changelog and the tag agree. ``nox -s release`` runs this."""

import re
import sys
from pathlib import Path
from typing import Final

from nitrohb import __version__

CHANGELOG: Final = Path(__file__).parents[2] / "CHANGELOG.md"
HEADING: Final = re.compile(r"^## \[(.+)\](?: - (\d{4}-\d\d-\d\d)$)?", re.MULTILINE)


def disagreement(version: str, changelog: str, tag: str | None = None) -> str | None:
    """What does not agree, or None. The changelog needs a date only if there is a tag."""
    newest = HEADING.search(changelog)
    if newest is None or newest[1] != version:
        return f"the newest version in CHANGELOG.md is not {version}"
    if tag is None:
        return None
    if tag != f"v{version}":
        return f"the tag is {tag}, but the version is {version}: the tag must be v{version}"
    if newest[2] is None:
        return f"CHANGELOG.md has no date: write '## [{version}] - YYYY-MM-DD'"
    return None


if __name__ == "__main__":
    sys.exit(disagreement(__version__, CHANGELOG.read_text("utf-8"), *sys.argv[1:]))
