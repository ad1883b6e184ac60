# SPDX-License-Identifier: Apache-2.0
"""Every example in a public docstring is executed."""

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sybil import Document
from sybil.parsers.rest import PythonCodeBlockParser

import nitrohb

from .examples import BIN


def docstrings() -> Iterator[tuple[str, str]]:
    for name in nitrohb.__all__:
        value = getattr(nitrohb, name)
        members = vars(value).items() if inspect.isclass(value) else ()
        public = [(f"{name}.{its}", it) for its, it in members if not its.startswith("_")]
        for path, documented in [(name, value), *public]:
            if not isinstance(documented, str | int):  # a constant has the docstring of its type
                yield path, inspect.getdoc(documented) or ""


# Examples: a literal block, a code block or a doctest.
EXAMPLE = re.compile(r"::( \w+)?$|^ *>>> ", re.MULTILINE)
WITH_EXAMPLES = {name: text for name, text in docstrings() if EXAMPLE.search(text)}
assert "serve_in_thread" in WITH_EXAMPLES


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_example_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", BIN, prepend=os.pathsep)
    document = Document(WITH_EXAMPLES[name], name)
    for region in PythonCodeBlockParser()(document):
        document.add(region)
    examples = list(document.examples())
    assert len(examples) == len(EXAMPLE.findall(WITH_EXAMPLES[name])), "one is executed by nobody"
    for example in examples:
        example.evaluate()
