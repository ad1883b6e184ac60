# SPDX-License-Identifier: Apache-2.0
"""What docs/how-to/qemu.md shows of nitrohb, without a guest; tests/enclave runs its commands."""

from pathlib import Path

import pytest

from tests.cli.process import nitrohb_here, started

from .examples import ROOT, blocks, shape

PAGE = blocks((ROOT / "docs/how-to/qemu.md").read_text())


def command(remark: str) -> str:
    (found,) = [block.text for block in PAGE if block.remark == remark]
    return found.rstrip()


def test_what_nitrohb_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device connects to a Unix socket, as ``nitrohb send hybrid:`` does."""
    monkeypatch.chdir(tmp_path)
    (shown,) = [block.text for block in PAGE if block.kind == "text"]
    program, *args = command("hybrid: nitrohb").split()
    assert program == "nitrohb"
    with started(*args) as server:
        assert " nitro_listening address=hybrid:vm4.vsock:9000 " in server.line()
        assert nitrohb_here("send", "hybrid:vm4.vsock:9000")[0] == 0
        assert shape(server.line() + server.line()) == shape(shown)


def test_the_readme_has_its_commands() -> None:
    """Word for word; but there nitrohb waits for one heartbeat, and where it does by default."""
    (shown,) = [
        block.text
        for block in blocks((ROOT / "README.md").read_text())
        if block.text.startswith("$ ")
    ]
    nitrohb = command("forward: nitrohb").removesuffix(" serve --keep -l vsock::9000")
    commands = [nitrohb, command("forward: device"), command("forward: eif")]
    assert shown.splitlines() == "".join(f"$ {it}\n" for it in commands).splitlines()
