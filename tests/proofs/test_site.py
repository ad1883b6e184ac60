# SPDX-License-Identifier: Apache-2.0
"""The documentation as it was built: links lead somewhere, and nothing is missing.

``nox -s docs`` builds it, and says where it is in ``NITROHB_SITE``.
"""

import html
import json
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.errors import ExtensionError

import nitrohb
from deploy.packaging.manpage import exit_code_meanings, subcommands, summaries
from docs._ext import diagrams
from docs._ext.command_line import create_parser
from docs._ext.event_schema import create_schema
from nitrohb.api.metrics import Metrics
from nitrohb.protocol import State

SITE: Final = Path(os.environ["NITROHB_SITE"])

# What a browser fetches by itself, and by which attribute; a link only says where one might go.
FETCHED: Final = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "object": "data",
    "link": "href",
}


class Page(HTMLParser):
    """What a page of the site has, and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.labels: list[str] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self.fetched += [found[FETCHED[tag]]] if FETCHED.get(tag) in found else []
        if tag == "svg" and found.get("role") == "img":
            self.labels.append(found["aria-label"])
        if tag == "text":
            self._inside.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "text":
            self.words.append(self._inside.pop())

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._inside[-1] += data


PAGES: Final = {path: Page(path) for path in sorted(SITE.rglob("*.html"))}


def page(name: str) -> Page:
    return PAGES[SITE / name]


def text_of(name: str) -> str:
    """The words of a page, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page(name).path.read_text()))


def inner_links() -> Iterator[tuple[Path, str]]:
    for path, found in PAGES.items():
        for link in found.links:
            if not urlsplit(link).scheme:
                yield path, link


def test_every_inner_link_leads_to_a_place() -> None:
    dead = [f"{path.name}: {link}" for path, link in inner_links() if not leads(path, link)]
    assert len(list(inner_links())) > 500
    assert not dead
    index = SITE / "index.html"
    found = [leads(index, it) for it in ("tutorial.html", "nothing.html", "tutorial.html#nothing")]
    assert found == [True, False, False]


def leads(path: Path, link: str) -> bool:
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not parts.fragment:
        return target.is_file()
    return target in PAGES and unquote(parts.fragment) in ("", *PAGES[target].ids)


# What must be on no page, and why.
WRONG: Final = {
    r"(?<!\w)–\w+": "this dash was -- before",
    r"[\u2018\u2019\u201c\u201d]": "no shell knows this quotation mark",
    r"(?<![\w:])(?::[a-z]+)+:\w+": "this markup is left",
}


def test_the_text_of_each_page_is_as_it_was_written() -> None:
    for path, found in PAGES.items():
        assert sorted(set(found.ids)) == sorted(found.ids), f"{path}: an id is there twice"
        text = text_of(str(path.relative_to(SITE)))
        for pattern, why in WRONG.items():
            assert re.findall(pattern, text) == [], f"{path}: {why}"


def test_a_mode_is_shown_in_octal() -> None:
    assert "socket_mode: int = 0o600" in text_of("reference/python.html")


def test_nothing_is_fetched_from_elsewhere() -> None:
    fetched = [url for found in PAGES.values() for url in found.fetched]
    for sheet in SITE.rglob("*.css"):
        text = sheet.read_text()
        fetched += re.findall(r"url\(\s*[\"']?([^\"')]+)", text)
        assert "@import" not in text
    assert len(fetched) > 100
    foreign = [url for url in fetched if urlsplit(url).netloc]
    assert not foreign


def test_every_public_name_is_documented() -> None:
    ids = page("reference/python.html").ids
    assert not [name for name in nitrohb.__all__ if f"nitrohb.{name}" not in ids]
    text = text_of("reference/python.html")
    assert "Claim a heartbeat that has arrived" in text
    assert "VMADDR_CID_ANY of linux/vm_sockets.h" in text, "what is written below a constant"


def test_every_command_and_each_of_its_options_is_documented() -> None:
    ids = page("reference/command-line.html").ids
    found = subcommands(create_parser())
    assert {"serve", "run", "send", "wait", "demo"} <= found.keys()
    for name, parser in found.items():
        for action in parser._actions:
            if action.help != "==SUPPRESS==":
                for option in action.option_strings:
                    assert f"nitrohb-{name}-{option}" in ids


def test_the_commands_and_the_first_examples_are_what_help_begins_with() -> None:
    parser = create_parser()
    text, _, rest = text_of("reference/command-line.html").partition("nitrohb serve options")
    assert summaries(parser).keys() == subcommands(parser).keys()
    for name, said in summaries(parser).items():
        assert f" {name} {said} " in html.unescape(text)
    assert parser.epilog is not None
    examples = " ".join(parser.epilog.split())
    assert (examples in text, examples in rest) == (True, False)


def test_the_schema_is_there() -> None:
    schema = json.loads((SITE / "events.schema.json").read_text())
    assert schema == create_schema()
    assert "events.schema.json" in {Path(link).name for link in page("reference/events.html").links}


def test_every_event_is_documented() -> None:
    assert set(create_schema()["$defs"]) <= {*page("reference/events.html").ids}
    text = text_of("reference/events.html")
    assert "nitro_lost address=unix:" in text, "what has no file cannot be lost"


def test_every_exit_code_is_documented() -> None:
    text = text_of("reference/exit-codes.html")
    for code in exit_code_meanings():
        assert f" {code} " in text


def test_every_metric_is_documented() -> None:
    text = text_of("reference/metrics.html")
    for family in Metrics().registry.collect():
        assert f" {family.name}" in text
        assert family.documentation in text


def test_every_state_is_drawn() -> None:
    found = page("explanation/protocol.html")
    assert {state.value for state in State} <= {*found.words}
    assert {"other byte", "end of stream"} <= {*found.words}
    assert any("states of one connection" in label for label in found.labels)


def test_a_state_that_the_diagram_lacks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class MoreStates:
        WAITING = State.WAITING

        def __iter__(self) -> Iterator[object]:
            yield from (*State, "another")

    monkeypatch.setattr(diagrams, "State", MoreStates())
    with pytest.raises(ExtensionError, match=r"how to get to {'another'}"):
        diagrams.moves()


def test_every_cause_is_drawn_and_leads_to_its_section() -> None:
    found = page("how-to/debugging.html")
    tree = diagrams.read_tree(Path(__file__).parents[2] / "docs/how-to/debugging.toml")
    causes = [node for node in tree.values() if node.section]
    assert len(causes) > 10
    for node in causes:
        assert found.links.count(f"#{node.section}") >= 2, "in the drawing, and in words"
        assert node.section in found.ids
    drawn = " ".join(found.words)
    words = {word.strip("`?") for node in tree.values() for word in node.text.split()}
    assert all(word in drawn for word in words)


ASKS = '[a]\ntext = "?"\nanswers.x = "b"\n'


def test_a_tree_that_leads_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "tree.toml"
    for tree, why in (
        ('[a]\ntext = "?"\n', "needs either answers or a section"),
        (ASKS, "is to be reached once"),
        (f'{ASKS}[b]\ntext = "!"\nsection = "b"\n[c]\ntext = "!"\nsection = "c"\n', "once"),
    ):
        path.write_text(tree)
        with pytest.raises(ExtensionError, match=why):
            diagrams.read_tree(path)
