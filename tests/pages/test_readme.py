# SPDX-License-Identifier: Apache-2.0
"""The README does what it says: its examples run, and print what it shows."""

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
SET_UP = ".venv/bin/"  # the two commands that set everything up: CI runs those themselves


def run_shell(example: Example) -> str:
    """Run a block of shell commands; what it prints is compared with the text block after it."""
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
    assert list(map(shape, document.namespace["outputs"])) == [shape(block("text", "unix:vm1 "))]
    assert "unix:enclave.sock has booted\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("address", "vmm", "why"),
    [
        ("unix:e", ["sleep", "60"], "no heartbeat came within 0.5 s: nobody connected"),
        ("unix:e", ["sh", "-c", "exit 3"], "exit status 3"),
        ("unix:e", ["/no/such/vmm"], "/no/such/vmm"),
        ("unix:no/e", ["true"], "cannot listen on unix:no/e"),
        ("tcp:e", ["true"], "'tcp:e' is not an address"),
        ("unix:e", ["nitrohb", "send", "unix:e", "-x"], "exit status 2"),
    ],
)
def test_its_library_example_prints_an_error_in_a_few_lines(
    address: str, vmm: list[str], why: str
) -> None:
    program = block("python", "import subprocess\n")
    given = '"unix:enclave.sock", ["nitrohb", "send", "unix:enclave.sock"]'
    assert program.count(given) == program.count("timeout=60") == 1
    program = program.replace("timeout=60", "timeout=0.5").replace(given, f"{address!r}, {vmm}")
    assert why in said_in_a_few_lines(program)


# A VMM that runs for a while after its boot.
VMM = """
import socket, time
with socket.socket(socket.AF_UNIX) as enclave:
    enclave.connect("e")
    enclave.sendall(b"\\xb7")
    enclave.recv(1)
time.sleep(1.2)
print("the VMM has ended by itself")
"""


def test_its_library_example_limits_the_time_of_the_boot_and_not_that_of_the_vmm() -> None:
    program = block("python", "import subprocess\n")
    given = '["nitrohb", "send", "unix:enclave.sock"]'
    program = program.replace(given, repr([sys.executable, "-Sc", VMM]))
    program = program.replace("unix:enclave.sock", "unix:e").replace("timeout=60", "timeout=1")
    assert {*said_in_a_few_lines(program).splitlines()} == {  # what is printed first may vary
        "unix:e has booted",
        "the VMM has ended by itself",
    }


def said_in_a_few_lines(program: str, lines: int = 3) -> str:
    """Run a program, and return what it prints: no traceback, and not too much."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) <= lines
    return done.stdout


def test_ci_runs_the_two_commands_word_for_word() -> None:
    commands = [
        line for line in README.read_text().splitlines() if line.startswith("python3 -m venv")
    ]
    assert len(commands) == 2
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert all(command in script for command in commands)
