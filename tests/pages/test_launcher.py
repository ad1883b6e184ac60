# SPDX-License-Identifier: Apache-2.0
"""The launcher of several enclaves, with the changes that its page names for Unix sockets."""

import re
from pathlib import Path

import pytest

from tests.docs.examples import BIN, ROOT, example

from .test_readme import said_in_a_few_lines

PAGE = (ROOT / "docs/how-to/launcher.md").read_text()
PROGRAM = example("how-to/launcher.md", "tests/docs/test_vsock.py::test_wait_by_cid")
CHANGES = re.findall(r"^\| `(.*)` \| `(.*?)`.* \|$", PAGE, re.MULTILINE)
SEND = f'["{BIN}/nitrohb", "send", '


def on_unix_sockets(*addresses: str, vmm: str | None = None) -> str:
    """Return the program for some addresses; a VMM that is not given sends its heartbeat."""
    (first, key), *others = CHANGES
    assert first == "16: ["
    assert key.startswith('"hybrid:')
    program = PROGRAM
    for before, after in others:
        assert program.count(before) == 1, before
        program = program.replace(before, after)
    vmms = {address: vmm or f"{SEND}{address!r}]" for address in addresses}
    entries = "".join(f"    {address!r}: {command},\n" for address, command in vmms.items())
    program, number = re.subn(r"(?<=VMMS = \{\n).*?(?=\}\n)", entries, program, flags=re.DOTALL)
    assert number == 1
    return program


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_three_enclaves_boot() -> None:
    addresses = [f"hybrid:vm{number}:9000" for number in range(3)]
    printed = said_in_a_few_lines(on_unix_sockets(*addresses), lines=6)
    for address in addresses:
        assert f"{address} has booted: " in printed


@pytest.mark.parametrize(
    ("one", "vmm", "why"),
    [
        ("unix:e", '["true"]', "unix:e: no heartbeat on unix:e came within 0.5 s: nobody"),
        ("unix:e", '["false"]', "unix:e: Command '['false']' returned non-zero exit status 1."),
        ("unix:no/e", '["true"]', "cannot listen on unix:no/e"),
    ],
)
def test_it_prints_an_error_in_a_few_lines(one: str, vmm: str, why: str) -> None:
    program = on_unix_sockets(one, "unix:f", vmm=vmm)
    assert program.count("timeout=180") == 1
    assert why in said_in_a_few_lines(program.replace("timeout=180", "timeout=0.5"))
