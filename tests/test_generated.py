# SPDX-License-Identifier: Apache-2.0
"""Files that are generated from the code are up to date and complete."""

import argparse
import re
from pathlib import Path

import pytest

import nitrohb
from deploy.packaging.generate import ROOT, generated
from deploy.packaging.manpage import exit_code_meanings, manpage, subcommands
from deploy.packaging.pages import fill
from nitrohb.cli.options import SHELLS
from nitrohb.cli.parser import build_parser

from .cli.process import nitrohb_here


@pytest.fixture(scope="module")
def files() -> dict[Path, str]:
    return generated()


def test_it_is_up_to_date(files: dict[Path, str]) -> None:
    old = [path for path, text in files.items() if path.read_text("utf-8") != text]
    assert not old, "nox -s generate writes them"


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
    """In "their permissions", "their" refers to the title of the group."""
    page = manpage(build_parser()).replace("\\-", "-").replace("\\(aq", "'")
    serve = page.partition(".SS nitrohb serve\n")[2].partition(".SS ")[0]
    titles = ["time", "socket files", "output", "HTTP interface (needs the extra api)"]
    assert re.findall(r"^\.PP\n\\fB(.*):\\fR$", serve, re.MULTILINE) == titles
    for title, option in zip(
        titles, ("--timeout", "--socket-mode", "--format", "--api"), strict=True
    ):
        assert f"\\fB{title}:\\fR\n.TP\n\\fB{option}\\fR" in serve


def test_the_man_page_has_exit_codes_environment_and_other_pages() -> None:
    _, _, end = manpage(build_parser()).partition(".SH EXIT STATUS\n")
    codes, _, rest = end.partition(".SH ENVIRONMENT\n")
    assert {str(code) for code in exit_code_meanings()} == {*bold(codes)}
    variables, _, others = rest.partition(".SH SEE ALSO\n")
    assert {"NITROHB_LISTEN", "JOURNAL_STREAM"} <= {*", ".join(bold(variables)).split(", ")}
    assert "](" not in variables
    assert ".BR sd_notify (3),\n" in others


def bold(text: str) -> list[str]:
    return re.findall(r"^\.TP\n\\fB(.*)\\fR$", text, re.MULTILINE)


def test_the_python_reference_has_every_public_name_and_signatures_as_they_are_written() -> None:
    page = (ROOT / "docs/reference/python.md").read_text()
    headings = re.findall(r"^### `(\w+)(?:\(\))?`$", page, re.MULTILINE)
    assert len(headings) == len({*headings})
    assert {*headings} >= {*nitrohb.__all__}
    assert "    socket_mode: int = 0o600,\n" in page
    assert "class VsockAddress(cid: int, port: int)\n" in page
    assert "\nclass HeartbeatServer\n" in page, "nobody else creates it"
    assert "\n- `*listen`: " in page
    assert "\n- [`AddressError`](#addresserror), [`UsageError`](#usageerror), [" in page
    assert not re.findall(r"[^`]``\w|:[a-z]+:`|^ *(?:Args|\.\. \S+):", page, re.MULTILINE)


def test_only_the_text_between_the_marks_is_replaced() -> None:
    page = "a\n<!-- generated: exit-codes -->\nold\n<!-- end -->\nb\n<!-- end -->\n"
    filled = fill(page)
    assert filled.startswith("a\n<!-- generated: exit-codes -->\n\n| code | meaning |\n")
    assert filled.endswith(" |\n\n<!-- end -->\nb\n<!-- end -->\n")
    assert "old" not in filled
    assert fill(filled) == filled
    with pytest.raises(KeyError):
        fill(page.replace("exit-codes", "exit-cods"))


def test_completions_are_printed(files: dict[Path, str]) -> None:
    for shell in SHELLS:
        (text,) = (text for path, text in files.items() if path.suffix == f".{shell}")
        assert nitrohb_here("completion", shell) == (0, text, "")
