# SPDX-License-Identifier: Apache-2.0
"""What is made of the parser is up to date, and has all that the parser has."""

import argparse
from pathlib import Path

import pytest

from deploy.packaging.generate import generated
from deploy.packaging.manpage import manpage, subcommands
from nitrohb.cli.completion import SHELLS
from nitrohb.cli.parser import build_parser

from .cli.process import nitrohb


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_it_is_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == generated()[path], "nox -s generate writes it anew"


def test_the_man_page_has_every_option_of_every_command() -> None:
    parser = build_parser()
    page = manpage(parser).replace("\\-", "-")
    for name, command in subcommands(parser).items():
        section = page.partition(f".SS nitrohb {name}\n")[2].partition(".SS ")[0]
        actions = [it for it in command._actions if it.help != argparse.SUPPRESS]
        assert actions
        for option in (option for action in actions for option in action.option_strings):
            assert f"\\fB{option}\\fR" in section, f"{name} {option}"


@pytest.mark.parametrize("shell", SHELLS)
def test_it_is_printed(shell: str) -> None:
    (path,) = (path for path in generated() if path.suffix == f".{shell}")
    assert nitrohb("completion", shell) == (0, path.read_text("utf-8"), "")
