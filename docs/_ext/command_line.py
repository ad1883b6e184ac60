# SPDX-License-Identifier: Apache-2.0
"""The parser of the command line, with all its commands, as sphinx-argparse-cli wants it."""

import argparse

from deploy.packaging.manpage import subcommands
from nitrohb.cli.parser import build_parser

__all__ = ["create_parser"]


def create_parser() -> argparse.ArgumentParser:
    """The whole parser; what is only for the eyes of a terminal is left out."""
    parser = build_parser()
    for one in (parser, *subcommands(parser).values()):
        one.formatter_class = argparse.RawDescriptionHelpFormatter
        for action in one._actions:
            action.default = action.default or None  # an empty list is no value to tell of
    return parser
