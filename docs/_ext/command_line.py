# SPDX-License-Identifier: Apache-2.0
"""The parser of the command line, with all its commands, as sphinx-argparse-cli wants it."""

import argparse
from typing import Any, cast

from nitrohb.cli.parser import build_parser

__all__ = ["commands", "create_parser", "summaries"]


def create_parser() -> argparse.ArgumentParser:
    """The whole parser; what is only for the eyes of a terminal is left out."""
    parser = build_parser()
    for one in (parser, *commands(parser).values()):
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        for action in one._actions:
            action.default = action.default or None  # an empty list is no value to tell of
    return parser


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands, by their names."""
    return cast("dict[str, argparse.ArgumentParser]", _listed(parser).choices)


def summaries(parser: argparse.ArgumentParser) -> dict[str, str]:
    """What ``--help`` says of each command in one line, by their names."""
    return {it.dest: it.help for it in _listed(parser)._choices_actions}


def _listed(parser: argparse.ArgumentParser) -> Any:
    for action in parser._actions:
        if isinstance(action.choices, dict):  # elsewhere it is a tuple
            return action
    raise LookupError("the command line has no commands")
