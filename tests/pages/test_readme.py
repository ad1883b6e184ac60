# SPDX-License-Identifier: Apache-2.0
"""The examples of the README run, and print what it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from tests.docs.examples import shape

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SET_UP = ".venv/bin/"  # CI runs these two commands


def run_shell(example: Example) -> str:
    """Run a block of shell commands, and compare its output with the text block after it."""
    if SET_UP in example.parsed:
        return ""
    shell = ["bash", "-euo", "pipefail", "-c", example.parsed]
    output = subprocess.run(shell, check=True, capture_output=True, text=True, timeout=60).stdout
    example.namespace.setdefault("outputs", []).append(output)
    return ""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.path.dirname(sys.executable)
    monkeypatch.setenv("PATH", here, prepend=os.pathsep)


def block(language: str, beginning: str) -> str:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)
    (text,) = [text for text in found if text.startswith(beginning)]
    return text


def test_the_examples_run(capfd: pytest.CaptureFixture[str]) -> None:
    document = Document.parse(
        str(README), PythonCodeBlockParser(), CodeBlockParser("sh", run_shell)
    )
    document.namespace["__name__"] = "readme"
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    assert len(examples) == 4
    assert list(map(shape, document.namespace["outputs"])) == [shape(block("text", "2026-"))]
    assert "unix:enclave.sock has booted\n" in capfd.readouterr().out


def test_ci_runs_the_two_commands_word_for_word() -> None:
    commands = [
        line for line in README.read_text().splitlines() if line.startswith("python3 -m venv")
    ]
    assert len(commands) == 2
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert all(command in script for command in commands)
