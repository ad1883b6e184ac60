# SPDX-License-Identifier: Apache-2.0
"""What is made of the parser is up to date, and has all that the parser has."""

import argparse
import re
from pathlib import Path

import pytest

from deploy.packaging.generate import generated
from deploy.packaging.manpage import exit_code_meanings, manpage, subcommands
from nitrohb.cli.options import SHELLS
from nitrohb.cli.parser import build_parser

from .cli.process import nitrohb_here


@pytest.fixture(scope="module")
def files() -> dict[Path, str]:
    return generated()


def test_it_is_up_to_date(files: dict[Path, str]) -> None:
    old = [path for path, text in files.items() if path.read_text("utf-8") != text]
    assert not old, "nox -s generate writes it anew"


def test_the_version_stands_in_every_file_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.packaging.generate.__version__", "9.8.7")
    monkeypatch.setattr("deploy.packaging.manpage.__version__", "9.8.7")
    named = {path.name for path, text in generated().items() if "9.8.7" in text}
    assert named == {"nitrohb.1", "nitrohb.yaml"}


def test_the_man_page_has_every_option_of_every_command() -> None:
    parser = build_parser()
    page = manpage(parser).replace("\\-", "-")
    for name, command in subcommands(parser).items():
        section = page.partition(f".SS nitrohb {name}\n")[2].partition(".SS ")[0]
        actions = [it for it in command._actions if it.help != argparse.SUPPRESS]
        assert actions
        for option in (option for action in actions for option in action.option_strings):
            assert f"\\fB{option}\\fR" in section, f"{name} {option}"


def test_the_man_page_has_the_groups_of_the_options() -> None:
    """What the first word of "their permissions" is about stands in the group's title."""
    page = manpage(build_parser()).replace("\\-", "-").replace("\\(aq", "'")
    serve = page.partition(".SS nitrohb serve\n")[2].partition(".SS ")[0]
    titles = ["time", "socket files", "output", "HTTP interface (needs the extra api)"]
    assert re.findall(r"^\.PP\n\\fB(.*):\\fR$", serve, re.MULTILINE) == titles
    for title, option in zip(
        titles, ("--timeout", "--socket-mode", "--format", "--api"), strict=True
    ):
        assert f"\\fB{title}:\\fR\n.TP\n\\fB{option}\\fR" in serve


def test_the_man_page_tells_the_exit_codes_the_environment_and_other_pages() -> None:
    _, _, end = manpage(build_parser()).partition(".SH EXIT STATUS\n")
    codes, _, rest = end.partition(".SH ENVIRONMENT\n")
    assert {str(code) for code in exit_code_meanings()} == {*bold(codes)}
    variables, _, others = rest.partition(".SH SEE ALSO\n")
    assert {"NITROHB_LISTEN", "JOURNAL_STREAM"} <= {*", ".join(bold(variables)).split(", ")}
    assert "](" not in variables
    assert ".BR sd_notify (3),\n" in others


def bold(text: str) -> list[str]:
    return re.findall(r"^\.TP\n\\fB(.*)\\fR$", text, re.MULTILINE)


def test_completions_are_printed(files: dict[Path, str]) -> None:
    for shell in SHELLS:
        (text,) = (text for path, text in files.items() if path.suffix == f".{shell}")
        assert nitrohb_here("completion", shell) == (0, text, "")
