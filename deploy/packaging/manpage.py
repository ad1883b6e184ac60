# SPDX-License-Identifier: Apache-2.0
"""Make a man page from a parser, in the macros of man(7).

argparse-manpage would omit the text below the options of a command (examples, addresses, exit
codes), and its usage lines differ between versions of Python.
"""

import argparse
import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

from nitrohb import __version__
from nitrohb.cli import exit_codes

__all__ = ["exit_code_meanings", "manpage", "subcommands", "summaries"]

REFERENCE: Final = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"

# The default groups of argparse get no title.
_UNNAMED: Final = ("positional arguments", "options")


def manpage(parser: argparse.ArgumentParser) -> str:
    """The whole page."""
    lines = [*_page(parser), ".SH EXIT STATUS", *_exit_codes(), ".SH ENVIRONMENT", *_variables()]
    return "\n".join([*lines, ".SH SEE ALSO", *_others("\n".join(lines))]) + "\n"


def exit_code_meanings() -> dict[int, str]:
    """The exit codes, each with its docstring."""
    body = ast.parse(inspect.getsource(exit_codes)).body
    return {
        getattr(exit_codes, code.target.id): inspect.cleandoc(said.value.value)
        for code, said in pairwise(body)
        if isinstance(code, ast.AnnAssign) and isinstance(code.target, ast.Name)
        if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant)
        if isinstance(said.value.value, str)
    }


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands, by their names."""
    return cast("dict[str, argparse.ArgumentParser]", _listed(parser).choices)


def summaries(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The summaries of the commands in ``--help``, by their names."""
    return {it.dest: it.help for it in _listed(parser)._choices_actions}


def _listed(parser: argparse.ArgumentParser) -> Any:
    (action,) = (it for it in parser._actions if isinstance(it.choices, dict))
    return action


def _page(parser: argparse.ArgumentParser) -> Iterator[str]:
    commands = subcommands(parser)
    summary = (parser.description or "").rstrip(".")
    yield '.\\" Generated from the parser by deploy/packaging/generate.py.'
    yield f'.TH {parser.prog.upper()} 1 "" "{parser.prog} {__version__}" "User Commands"'
    yield ".SH NAME"
    yield _text(f"{parser.prog} - {summary[:1].lower()}{summary[1:]}")
    yield ".SH SYNOPSIS"
    yield from _synopsis([_usage(it) for it in (parser, *commands.values())])
    yield ".SH DESCRIPTION"
    yield _text(parser.description or "")
    yield _text("Without a command, options are those of serve.")
    yield from _epilog(parser)
    yield ".SH OPTIONS"
    yield from _arguments(parser)
    yield ".SH COMMANDS"
    for command in commands.values():
        yield f".SS {_text(command.prog)}"
        yield _text(command.description or "")
        yield from _arguments(command)
        yield from _epilog(command)


def _synopsis(usages: list[str]) -> Iterator[str]:
    for number, usage in enumerate(usages):
        if number:
            yield ".br"
        yield f".B {_text(usage)}"


def _usage(parser: argparse.ArgumentParser) -> str:
    if parser.usage:
        return parser.usage
    operands = (
        it.metavar if it.nargs != "?" else f"[{it.metavar}]"
        for it in parser._actions
        if not it.option_strings and it.help != argparse.SUPPRESS and isinstance(it.metavar, str)
    )
    return " ".join([parser.prog, "[options]", *operands])


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS and not isinstance(action.choices, dict)
        ]
        if actions and group.title and group.title not in _UNNAMED:
            yield ".PP"
            yield f"\\fB{_text(group.title)}:\\fR"
        for action in actions:
            yield ".TP"
            yield _heading(action)
            yield from _filled(_help(action, parser.prog))


def _heading(action: argparse.Action) -> str:
    value = action.metavar or (action.choices and "|".join(map(str, action.choices)))
    value = f"\\fI{_text(str(value or action.dest.upper()))}\\fR"
    if not action.option_strings:
        return value
    options = ", ".join(f"\\fB{_text(option)}\\fR" for option in action.option_strings)
    return options if action.nargs == 0 else f"{options} {value}"


def _help(action: argparse.Action, prog: str) -> str:
    return (action.help or "") % {**vars(action), "prog": prog}


def _filled(text: str) -> list[str]:
    return textwrap.wrap(_text(text), 76, break_on_hyphens=False, break_long_words=False)


def _epilog(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The text below the options in ``--help``, with its line breaks."""
    if parser.epilog:
        yield ".PP"
        yield ".nf"
        yield from (_text(line.rstrip()) or ".sp" for line in parser.epilog.strip().split("\n"))
        yield ".fi"


def _exit_codes() -> Iterator[str]:
    for code, said in sorted(exit_code_meanings().items()):
        yield ".TP"
        yield f"\\fB{code}\\fR"
        yield from _filled(said.replace("``", ""))
    _, _, signals = (exit_codes.__doc__ or "").partition("\n")[0].partition(". ")
    yield ".PP"
    yield from _filled(signals)


def _variables() -> Iterator[str]:
    """The table of the reference, without its links."""
    _, _, table = REFERENCE.read_text("utf-8").partition("\n## Environment variables\n")
    for names, said in re.findall(r"^\| (`.*`) \| (.*) \|$", table, re.MULTILINE):
        yield ".TP"
        yield f"\\fB{_text(names.replace('`', ''))}\\fR"
        yield from _filled(re.sub(r" \(\[.*?\]\(.*?\)\)|`", "", said))


def _others(page: str) -> Iterator[str]:
    """The other man pages that the page names."""
    named = sorted({*re.findall(r"(\w+)\((\d)\)", page)})
    for number, (name, section) in enumerate(named, 1):
        yield f".BR {name} ({section}){',' if number < len(named) else ''}"


_TYPED: Final = str.maketrans(
    {"\\": "\\e", "-": "\\-", "^": "\\(ha", "~": "\\(ti", "'": "\\(aq", "`": "\\(ga"}
)


def _text(line: str) -> str:
    """Escape a line for troff: it contains no macro, and its characters can be copied."""
    line = line.translate(_TYPED)
    return f"\\&{line}" if line.startswith(".") else line
