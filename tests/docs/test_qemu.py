# SPDX-License-Identifier: Apache-2.0
"""The output of nitrohb in docs/how-to/qemu.md, without a guest.

tests/enclave runs the commands.
"""

import re
import runpy
from pathlib import Path

import pytest

from tests.cli.process import nitrohb

from .examples import BIN, ROOT, blocks, shape

PAGE = blocks((ROOT / "docs/how-to/qemu.md").read_text())


def command(remark: str) -> str:
    (found,) = [block.text for block in PAGE if block.remark == remark]
    return found.rstrip()


def test_what_nitrohb_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device connects to a Unix socket, as ``nitrohb send hybrid:`` does."""
    monkeypatch.chdir(tmp_path)
    _, shown = [block.text for block in PAGE if block.kind == "text"]
    _, run, listen, address, *_ = command("hybrid: run").split()
    vmm = (BIN + "/nitrohb", "send", address)
    code, printed, said = nitrohb(run, listen, address, "--timeout", "60", "--", *vmm)
    assert (code, shape(printed)) == (0, shape(f"{address} answered in 1.0 ms\n"))
    assert shape(said) == shape(shown)


def test_the_readme_has_its_commands() -> None:
    """And their output. But the commands of the README run in a checkout."""
    text = (ROOT / "README.md").read_text()
    (shown,) = [block.text for block in blocks(text) if block.text.startswith("$ ")]
    printed, _ = [block.text for block in PAGE if block.kind == "text"]
    commands = f"{command('image')}\n{command('image: boot')}"
    here = re.sub(r'"\$NITROHB/(\S+)"', r"\1", commands).replace("\npython ", "\n.venv/bin/python ")
    assert shown == "".join(f"$ {it}\n" for it in here.splitlines()) + printed


def test_the_example_names_the_commands_that_install_what_it_needs() -> None:
    example = runpy.run_path(str(ROOT / "examples/boot_eif.py"))
    debian, cargo = command("install").splitlines()
    assert example["CARGO"] == cargo
    assert set(example["APT"].split()) <= set(debian.split())
