# SPDX-License-Identifier: Apache-2.0
"""A man page of a parser, in the macros of man(7).

argparse-manpage would leave out what stands below the options of a command (its examples, its
addresses and exit codes), and gives each Python's own wording of its usage.
"""

import argparse
import textwrap
from collections.abc import Iterator
from typing import cast

__all__ = ["manpage", "subcommands"]


def manpage(parser: argparse.ArgumentParser) -> str:
    """The whole page."""
    return "\n".join(_page(parser)) + "\n"


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands, by their names."""
    (action,) = (it for it in parser._actions if isinstance(it.choices, dict))
    return cast("dict[str, argparse.ArgumentParser]", action.choices)


def _page(parser: argparse.ArgumentParser) -> Iterator[str]:
    from nitrohb import __version__

    commands = subcommands(parser)
    summary = (parser.description or "").rstrip(".")
    yield '.\\" Made of the parser by deploy/packaging/generate.py.'
    yield f'.TH {parser.prog.upper()} 1 "" "{parser.prog} {__version__}" "User Commands"'
    yield ".SH NAME"
    yield _text(f"{parser.prog} - {summary[:1].lower()}{summary[1:]}")
    yield ".SH SYNOPSIS"
    yield from _synopsis([_usage(it) for it in (parser, *commands.values())])
    yield ".SH DESCRIPTION"
    yield _text(parser.description or "")
    yield _text("Options without a command are those of serve.")
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
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or isinstance(action.choices, dict):
            continue
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
    """What stands below the options in --help, its lines as they are."""
    if parser.epilog:
        yield ".PP"
        yield ".nf"
        yield from (_text(line.rstrip()) or ".sp" for line in parser.epilog.strip().split("\n"))
        yield ".fi"


def _text(line: str) -> str:
    """A line as troff is to print it: no escape, no macro, each hyphen one that can be copied."""
    line = line.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{line}" if line.startswith((".", "'")) else line
