# SPDX-License-Identifier: Apache-2.0
"""Links in the Markdown files lead to files, and to headings there, as GitHub shows them."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from .examples import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def inline(page: Path) -> Iterator[tuple[str, list[Token]]]:
    """What contains text: the kind of the block, and its parts."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    for before, token in pairwise(tokens):
        if token.type == "inline":
            yield before.type, token.children or []


@cache
def anchors(page: Path) -> list[str]:
    found: list[str] = []
    for kind, parts in inline(page):
        if kind == "heading_open":
            text = "".join(part.content for part in parts).lower()
            slug = re.sub(r"[^\w -]", "", text).replace(" ", "-")
            same = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", it) is not None for it in found)
            found.append(f"{slug}-{same}" if same else slug)
    return found


def links(page: Path) -> Iterator[str]:
    for _, parts in inline(page):
        hrefs = (str(part.attrs["href"]) for part in parts if part.type == "link_open")
        yield from (href for href in hrefs if not re.match(r"\w+:", href))


def leads(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.is_file() and (not anchor or anchor in anchors(target.resolve()))


def test_links_lead_somewhere() -> None:
    found = [(page, link) for page in PAGES for link in links(page)]
    assert len(found) > 200
    assert not [f"{page}: {link}" for page, link in found if not leads(page, link)]


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `GET /x`, and y\n\n# A_b\n\n# A_b\n\n| [a](b.md) |\n|---|\n| [c](d:e) |\n")
    assert [*links(page)] == ["b.md"]
    assert anchors(page) == ["get-x-and-y", "a_b", "a_b-1"]
    known = ("page.md", "#a_b", "page.md#a_b-1", "b.md", "#a_b-2", "page.md#a-b")
    assert [leads(page, link) for link in known] == [True, True, True, False, False, False]
