# SPDX-License-Identifier: Apache-2.0
"""Every example in docs/ is executed: by this module, or by a test that is named here."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from .examples import BIN, ROOT, blocks, run_page

DOCS: Final = ROOT / "docs"
TUTORIAL: Final = "tutorial.md"

# Pages that have tests of their own, for blocks of each kind: tests that name the page.
OTHERS: Final = {
    "api.md": {
        "indented": "tests/api/test_docs.py",
        "json": "tests/docs/test_schema.py",
        "yaml": "tests/proofs/test_prometheus.py",
    },
    "how-to/qemu.md": {
        "sh": "tests/enclave/test_how_to.py",
        "text": "tests/docs/test_qemu.py",
    },
}
PAGES: Final = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
OURS: Final = [page for page in PAGES if page not in OTHERS]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", BIN, prepend=os.pathsep)


@pytest.mark.parametrize("page", [page for page in OURS if page != TUTORIAL])
def test_its_examples_run_and_print_what_it_shows(page: str) -> None:
    run_page(DOCS / page)


def test_the_tutorial_takes_less_than_five_minutes() -> None:
    """Its commands take less than one, without pip's download: the rest is for the reader."""
    began = time.monotonic()
    run_page(DOCS / TUTORIAL)
    assert time.monotonic() - began < 60


def test_the_tutorial_looks_where_it_has_installed(tmp_path: Path) -> None:
    install, look, *_ = blocks((DOCS / TUTORIAL).read_text())
    (place,) = re.findall(r"^python3 -m venv (\S+) && ", install.text)
    program = tmp_path / place / "bin" / "nitrohb"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    found = ["bash", "-euc", f"{look.text}\ncommand -v nitrohb"]
    assert subprocess.check_output(found, text=True) == f"{program}\n"


@pytest.mark.parametrize("page", OURS)
def test_what_is_run_elsewhere_is_run_there(page: str) -> None:
    for block in blocks((DOCS / page).read_text()):
        if block.elsewhere:
            path, _, test = block.elsewhere.partition("::")
            text = (ROOT / path).read_text()
            # A test takes the example from the page itself, so that it runs what stands there.
            takes = Path(page).name in text and f"def {test}(" in text
            runs = takes if test else block.text.strip() in text
            assert runs, f"{page}:{block.line}: {block.elsewhere} does not run this"


@pytest.mark.parametrize("page", ["../README.md", *PAGES])
def test_its_links_lead_to_files(page: str) -> None:
    """Who reads the pages where they lie follows these; those of the site are checked there."""
    here = (DOCS / page).parent
    links = re.findall(r"\]\(([^()\s#:]+)(?:#[^()\s]*)?\)", (DOCS / page).read_text())
    assert not [link for link in links if not (here / link).is_file()]


@pytest.mark.parametrize("page", OTHERS)
def test_other_pages_have_tests_of_their_own(page: str) -> None:
    for block in blocks((DOCS / page).read_text()):
        test = OTHERS[page].get(block.kind)
        assert test, f"{page}:{block.line}: this {block.kind} block is executed by nobody"
        assert Path(page).name in (ROOT / test).read_text(), f"{test} does not know of {page}"


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ("```sh\ntrue\n```\n\n```ini\nx\n```", "executed by nobody"),
        ("```text\nx\n```", "executed by nobody"),
        ("    indented\n", "executed by nobody"),
        ("```{code-block} sh\ntrue\n```", "executed by nobody"),
        ("```sh\necho x\n```\n\n```text\ny\n```", "it prints\nx"),
        ("```python\nprint('x')\n```\n\n```text\ny\n```", "it prints\nx"),
        ("```sh\necho 180 s\n```\n\n```text\n90 s\n```", "it prints\n180 s"),
        ("```sh\necho byte=0x0a\n```\n\n```text\nbyte=0x5a\n```", "it prints\nbyte=0x0a"),
        ("```sh\nfalse\n```", ": 1, "),
        ("<!-- exit code 3 -->\n```sh\nexit 4\n```", ": 4, "),
        ("<!-- whatever -->\n```sh\ntrue\n```", "what is 'whatever'"),
        ("<!-- in another terminal -->\n```sh\necho x\n```", "nobody has looked"),
        ("<!-- the other terminal shows -->\n```text\nx\n```", "there is no other terminal"),
    ],
)
def test_a_wrong_example_is_found(example: str, why: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(example)
    with pytest.raises(AssertionError, match=re.escape(why)):
        run_page(page)


RIGHT = """\
<!-- in another terminal -->
```sh
echo begun; until [ -e end ]; do sleep 0.01; done
```

1. one

   ```sh
   echo 1 answered in 0.5 ms; touch end
   ```

   ```text
   1 answered in 2.0 ms
   ```

<!-- the other terminal shows -->
```text
begun
```

<!-- exit code 3 -->
```sh
exit 3
```
"""


def test_a_right_example_is_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(RIGHT)
    run_page(page)
    assert (tmp_path / "end").exists()


def test_what_goes_on_is_ended_by_a_key(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- in another terminal -->\n```sh\nnitrohb serve -l unix:s\n```\n"
        "<!-- the other terminal shows, after Ctrl-C -->\n```text\n"
        "2026-11-22T21:05:07.682370Z nitro_listening address=unix:s level=info\n```\n"
    )
    run_page(page)
