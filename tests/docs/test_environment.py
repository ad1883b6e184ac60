# SPDX-License-Identifier: Apache-2.0
"""Every environment variable that the source names is in the reference."""

import re

import pytest

from .examples import ROOT

READS = r"(?:environ(?:\.get|\.pop)?[\[(]|getenv\()\s*\"(\w+)\""
NAMES = r"\"((?:NITROHB|LISTEN|NOTIFY|WATCHDOG|JOURNAL)_[A-Z_]+)\""


def named_in_the_source() -> set[str]:
    sources = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
    return {
        name for source in sources for how in (READS, NAMES) for name in re.findall(how, source)
    }


def test_there_are_some() -> None:
    assert "NITROHB_LISTEN" in named_in_the_source()


@pytest.mark.parametrize("name", sorted(named_in_the_source()))
def test_it_is_documented(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs/reference/environment.md").read_text()
