# SPDX-License-Identifier: Apache-2.0
"""Tests, files, events and variables that docs/ names exist."""

import re
from pathlib import Path
from typing import Final, get_args

from nitrohb import Event, RejectReason

from .examples import ROOT, blocks

DOCS: Final = ROOT / "docs"

# Pages whose blocks have their own tests: tests that name the page. The
# others are run by tests/pages, which fails at a block that is neither run nor compared.
OTHERS: Final = {
    "api.md": {"indented": "tests/pages/test_api.py"},
    "how-to/qemu.md": {
        "sh": "tests/enclave/test_how_to.py",
        "text": "tests/docs/test_qemu.py",
    },
}
PAGES: Final = {str(path.relative_to(DOCS)): path.read_text() for path in DOCS.rglob("*.md")}
OURS: Final = sorted(page for page in PAGES if page not in OTHERS)


def test_blocks_name_the_tests_that_run_them() -> None:
    elsewhere = [(page, block) for page in OURS for block in blocks(PAGES[page]) if block.elsewhere]
    assert elsewhere
    for page, block in elsewhere:
        path, _, test = block.elsewhere.partition("::")
        text = (ROOT / path).read_text()
        # A test reads the example from the page, so it runs exactly that text.
        takes = Path(page).name in text and f"def {test}(" in text
        runs = takes if test else block.text.strip() in text
        assert runs, f"{page}:{block.line}: {block.elsewhere} does not run this"


def test_every_page_has_a_test() -> None:
    for page, tests in OTHERS.items():
        for block in blocks(PAGES[page]):
            test = tests.get(block.kind)
            assert test, f"{page}:{block.line}: this {block.kind} block is executed by nobody"
            assert Path(page).name in (ROOT / test).read_text(), f"{test} does not know of {page}"


# How the source reads a variable of the environment, and how it names one.
VARIABLES: Final = (
    r"(?:environ(?:\.get|\.pop)?[\[(]|getenv\()\s*\"(\w+)\"",
    r"\"((?:NITROHB|LISTEN|NOTIFY|WATCHDOG|JOURNAL)_[A-Z_]+)\"",
)


def test_every_variable_of_the_environment_is_in_the_reference() -> None:
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    names = {name for how in VARIABLES for name in re.findall(how, source)}
    assert "NITROHB_LISTEN" in names
    assert not [name for name in names if f"`{name}`" not in PAGES["reference/command-line.md"]]


def test_debugging_has_every_event_and_every_reason() -> None:
    page, _, _ = PAGES["how-to/debugging.md"].partition("\n## ")
    rows: list[str] = re.findall(r"^\| (.*?) \| .* \| .* \|$", page, re.MULTILINE)
    named = re.findall("(with )?`(.*?)`", " ".join(rows))
    assert {name for is_reason, name in named if is_reason} == {*RejectReason}
    events = {event.name for event in get_args(Event)}
    assert {name for is_reason, name in named if not is_reason} == events | {"echoed"}
