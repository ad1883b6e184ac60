# SPDX-License-Identifier: Apache-2.0
"""Diagrams, drawn by Graphviz from data, each with the same in words below it.

They are part of the page, as SVG, so that they follow its colours and need nothing from elsewhere.
"""

import html
import re
import subprocess
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from nitrohb.protocol import HEARTBEAT, Latch, ParentHandshake, State

__all__ = ["Move", "moves", "read_tree", "setup"]

# What can be read from a connection, and what the diagram calls it.
_INPUTS: Final = {
    HEARTBEAT: f"heartbeat (0x{HEARTBEAT[0]:02X})",
    b"\n": "other byte",
    b"": "end of stream",
}

# Graphviz reserves room for its own idea of the font; the style sheet has the last word on it.
_DEFAULTS: Final = (
    'graph [bgcolor="transparent" fontname="Helvetica" nodesep=0.2 ranksep=0.5 pad=0.1]',
    'node [fontname="Helvetica" fontsize=13 margin="0.16,0.08"]',
    'edge [fontname="Helvetica" fontsize=12]',
)


def setup(app: Any) -> None:
    """Add the directives."""
    app.add_directive("state-diagram", _StateDiagram)
    app.add_directive("decision-tree", _DecisionTree)


class Move(NamedTuple):
    """What becomes of a waiting connection."""

    read: bytes
    answered: bool  # whether the one-shot address has answered another one before
    to: State
    reply: bytes


def moves() -> list[Move]:
    """Every move of the parent's handshake, as the handshake itself makes it.

    Raises:
        ExtensionError: There is a state that no move leads to.
    """
    made = [_move(read, answered) for answered in (False, True) for read in _INPUTS]
    first = {move.read: move.to for move in made if not move.answered}
    if lacking := {*State} - {State.WAITING, *(move.to for move in made)}:
        raise ExtensionError(f"the diagram does not show how to get to {lacking}")
    return [move for move in made if not move.answered or move.to is not first[move.read]]


def _move(read: bytes, answered: bool) -> Move:
    latch = Latch()
    latch.answered = answered
    handshake = ParentHandshake(latch)
    to = handshake.receive(read)
    return Move(read, answered, to, handshake.reply)


class _StateDiagram(SphinxDirective):
    """The states of one connection, from the handshake in protocol.py."""

    option_spec: ClassVar[Any] = {"title": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        made = moves()
        rows = "\n".join(
            f"| {_condition(move)} | **{move.to.value}** | {_consequence(move)} |" for move in made
        )
        header = "| what comes from the wire | the state is then | the parent |\n|---|---|---|"
        drawing = _draw(_state_lines(made), self.options["title"], "the table below has the same")
        return [drawing, *self.parse_text_to_nodes(f"{header}\n{rows}")]


def _condition(move: Move) -> str:
    once = ", where a one-shot address has answered before" if move.answered else ""
    return f"{_INPUTS[move.read]}{once}"


def _consequence(move: Move) -> str:
    return "echoes the byte, and closes" if move.reply else "closes, and sends nothing"


def _state_lines(made: Iterable[Move]) -> Iterator[str]:
    yield "rankdir=LR"
    yield 'start [shape=point class="start" width=0.12]'
    yield f"{_quoted(State.WAITING.value)} [shape=box style=rounded]"
    yield f'start -> {_quoted(State.WAITING.value)} [label="accepted"]'
    for move in made:
        kind = "good" if move.reply else "end"
        label = _INPUTS[move.read] + ("\nanswered before" if move.answered else "")
        yield (
            f"{_quoted('to ' + move.to.value)} [shape=box style=rounded peripheries=2"
            f' class="{kind}" label={_quoted(move.to.value)}]'
        )
        yield (
            f"{_quoted(State.WAITING.value)} -> {_quoted('to ' + move.to.value)}"
            f" [label={_quoted(label)}]"
        )


@dataclass(frozen=True)
class _Node:
    """A question with its answers, or a cause, which is a section of the page."""

    name: str
    text: str
    answers: dict[str, str]
    section: str | None


class _DecisionTree(SphinxDirective):
    """From symptom to cause, by a TOML file."""

    required_arguments = 1
    option_spec: ClassVar[Any] = {"title": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        _, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(path)
        tree = read_tree(Path(path))
        note = "the list below has the same, as text"
        drawing = _draw(_tree_lines(tree), self.options["title"], note)
        return [drawing, *self.parse_text_to_nodes("\n".join(_tree_words(tree)))]


def read_tree(path: Path) -> dict[str, _Node]:
    """Read a decision tree: its nodes by their names, the first of them its root.

    Raises:
        ExtensionError: It is no tree.
    """
    data = tomllib.loads(path.read_text())
    tree = {
        name: _Node(name, of["text"], of.get("answers", {}), of.get("section"))
        for name, of in data.items()
    }
    for node in tree.values():
        if bool(node.answers) == bool(node.section):
            raise ExtensionError(f"{path}: {node.name} needs either answers or a section")
    led_to = [to for node in tree.values() for to in node.answers.values()]
    root, *rest = tree
    if sorted(led_to) != sorted(rest):
        raise ExtensionError(f"{path}: from {root}, each of the others is to be reached once")
    return tree


def _tree_lines(tree: dict[str, _Node]) -> Iterator[str]:
    yield "rankdir=LR ranksep=0.35"
    root = next(iter(tree.values()))
    yield f'{_quoted(root.name)} [shape=box class="question" label={_label("", root.text, 12)}]'
    for node in tree.values():
        for answer, to in node.answers.items():
            yield f"{_quoted(to)} [{_look(tree[to])} label={_label(answer, tree[to].text, 26)}]"
            yield f"{_quoted(node.name)} -> {_quoted(to)}"


def _look(node: _Node) -> str:
    if node.section is None:
        return 'shape=box class="question"'
    return f'shape=box style=rounded class="cause" URL={_quoted("#" + node.section)} target="_self"'


def _label(answer: str, text: str, width: int) -> str:
    """What leads here, and below it in bold what is there, as Graphviz takes text with a look."""
    lines = [html.escape(line) for line in _wrapped(answer, width)]
    bold = [f"<b>{html.escape(line)}</b>" for line in _wrapped(text, width)]
    return f"<{'<br/>'.join([*lines, *bold])}>"


def _tree_words(tree: dict[str, _Node]) -> Iterator[str]:
    root = next(iter(tree.values()))
    yield root.text
    yield ""
    yield from _answers(tree, root, "")


def _answers(tree: dict[str, _Node], node: _Node, indent: str) -> Iterator[str]:
    for answer, to in node.answers.items():
        then = tree[to]
        if then.section:
            yield f"{indent}- {answer}: [{then.text}](#{then.section})"
        else:
            yield f"{indent}- {answer}: {then.text}"
            yield from _answers(tree, then, indent + "  ")


def _draw(lines: Iterable[str], title: str, note: str) -> nodes.Node:
    """A graph as SVG, in a box that scrolls where it is too wide."""
    dot = "\n".join(("digraph {", *_DEFAULTS, *lines, "}"))
    done = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise ExtensionError(f"dot cannot draw {title!r}: {done.stderr}")
    svg = _tidy(done.stdout, f"{title} ({note})")
    figure = f'<div class="diagram" tabindex="0" role="group" aria-label="{html.escape(title)}">'
    return nodes.raw("", f"{figure}{svg}</div>", format="html")


def _tidy(svg: str, label: str) -> str:
    """The picture alone: one name for it, no tooltips, and colours from the style sheet."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<title>.*?</title>\n?|<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns:xlink|xlink:title|font-family|stroke|fill)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'="(\d+)pt"', r'="\1"', svg)  # a point of Graphviz is a pixel here
    svg = re.sub(r' id="[^"]*"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text.replace("`", ""), width)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
