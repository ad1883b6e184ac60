# SPDX-License-Identifier: Apache-2.0
"""Every example in docs/ runs: in this module, or in a test that is named here."""

import os
import re
from pathlib import Path

import pytest

from tests.docs.examples import BIN, blocks, run_page
from tests.docs.test_blocks import DOCS, OURS, PAGES


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", BIN, prepend=os.pathsep)


@pytest.mark.parametrize("page", [page for page in OURS if blocks(PAGES[page])])
def test_its_examples_run_and_print_what_it_shows(page: str) -> None:
    run_page(DOCS / page)


def test_a_wrong_example_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for example, why in {
        "```sh\ntrue\n```\n\n```ini\nx\n```": "executed by nobody",
        "```text\nx\n```": "executed by nobody",
        "    indented\n": "executed by nobody",
        "```{code-block} sh\ntrue\n```": "executed by nobody",
        "```sh\necho 180 s\n```\n\n```text\n90 s\n```": "it prints\n180 s",
        "```python\nprint('x')\n```\n\n```text\ny\n```": "it prints\nx",
        "```sh\nfalse\n```": ": 1, ",
        "```sh exit code 3\nexit 4\n```": ": 4, ",
        "```sh whatever\ntrue\n```": "what is 'whatever'",
        "```sh in another terminal\necho x\n```": "nobody has looked",
        "```text the other terminal shows\nx\n```": "there is no other terminal",
    }.items():
        page.write_text(example)
        with pytest.raises(AssertionError, match=re.escape(why)):
            run_page(page)
