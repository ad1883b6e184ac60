# SPDX-License-Identifier: Apache-2.0
"""The site shows the text of the pages, and fetches nothing from other hosts.

``nox -s docs`` builds it, and sets ``NITROHB_SITE`` to its directory. Sphinx has checked its links.
"""

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

SITE: Final = Path(os.environ["NITROHB_SITE"])
PAGES: Final = {path: path.read_text() for path in sorted(SITE.rglob("*.html"))}

# What a browser fetches without a click.
FETCHED: Final = (
    r"<(?:script|img|iframe|source)\b[^>]*\ssrc=\"([^\"]+)\"",
    r"<link\b[^>]*\shref=\"([^\"]+)\"",
    r"<object\b[^>]*\sdata=\"([^\"]+)\"",
)

# Texts that must not be on a page, and why.
WRONG: Final = {
    r"(?<!\w)–\w+": "this dash was -- before",
    r"[\u2018\u2019\u201c\u201d]": "no shell knows this quotation mark",
    r"(?<![\w:])(?::[a-z]+)+:\w+": "this markup is left",
}


def test_the_site_shows_the_text_of_each_page() -> None:
    assert len(PAGES) > 20
    for path, page in PAGES.items():
        text = re.sub(r"<[^>]*>", "", page)
        for pattern, why in WRONG.items():
            assert re.findall(pattern, text) == [], f"{path}: {why}"


def test_nothing_is_fetched_from_other_hosts() -> None:
    found = (re.findall(how, page) for page in PAGES.values() for how in FETCHED)
    fetched: list[str] = [url for urls in found for url in urls]
    for sheet in SITE.rglob("*.css"):
        text = sheet.read_text()
        fetched += re.findall(r"url\(\s*[\"']?([^\"')]+)", text)
        assert "@import" not in text
    assert len(fetched) > 100
    assert not [url for url in fetched if urlsplit(url).netloc]
