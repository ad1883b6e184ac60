# SPDX-License-Identifier: Apache-2.0
"""Completion in real shells, and the man page in real formatters."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from deploy.packaging.manpage import subcommands
from nitrohb.cli.parser import build_parser

PAGE = Path(__file__).parents[2] / "docs" / "nitrohb.1"
BIN = Path(sys.executable).parent

TYPED = {
    "nitrohb ser": "nitrohb serve",
    "nitrohb comp": "nitrohb completion",
    "nitrohb completion z": "nitrohb completion zsh",
    "nitrohb --vers": "nitrohb --version",
    "nitrohb --kee": "nitrohb --keep",
    "nitrohb serve --hands": "nitrohb serve --handshake-timeout",
    "nitrohb serve --format j": "nitrohb serve --format json",
    "nitrohb wait --keep --format t": "nitrohb wait --keep --format text",
    "nitrohb serve --eif hel": "nitrohb serve --eif hello.eif",
    "nitrohb serve -l unix:run/vm": "nitrohb serve -l unix:run/vm.sock",
    "nitrohb send unix:run/vm": "nitrohb send unix:run/vm.sock",
    "nitrohb serve --socket-group daemo": "nitrohb serve --socket-group daemon",
    "nitrohb run --keep -- sha256su": "nitrohb run --keep -- sha256sum",
    "nitrohb run -- sha256sum hel": "nitrohb run -- sha256sum hello.eif",
}

INTERACTIVE = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        "bind 'set enable-bracketed-paste off'; eval \"$(nitrohb completion bash)\"",
    ),
    "zsh": (
        ["-f", "-i"],
        'bindkey -e; autoload -U compinit; compinit -u -D; eval "$(nitrohb completion zsh)"',
    ),
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for directory in ("run", "home"):
        (tmp_path / directory).mkdir()
    for file in ("hello.eif", "run/vm.sock"):
        (tmp_path / file).touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(BIN), prepend=os.pathsep)


@pytest.mark.parametrize("shell", INTERACTIVE)
def test_tab(shell: str, tmp_path: Path) -> None:
    arguments, start = INTERACTIVE[shell]
    env = os.environ | {"TERM": "vt100"}
    child: pexpect.spawn[str] = pexpect.spawn(
        shell, arguments, env=env, encoding="utf-8", timeout=60
    )
    child.sendline(f"{start}; PS1=read'y> '; PROMPT=$PS1")
    child.expect("ready> ")
    got: dict[str, str] = {}
    for typed in TYPED:
        # Complete the line, and write it to a file, quoted as one word.
        child.send(f"{typed}\t\x01printf %s '\x05' > line\r")
        child.expect("ready> ")
        got[typed] = (tmp_path / "line").read_text().rstrip()
    child.close(force=True)
    assert got == TYPED


def completed_by_fish(lines: list[str]) -> dict[str, list[str]]:
    """Return what fish offers for each line."""
    asks = [f"complete -C {shlex.quote(line)}; echo ===" for line in lines]
    script = "; ".join(["nitrohb completion fish | source", *asks])
    run = subprocess.run(
        ["fish", "--no-config", "-c", script], check=True, capture_output=True, text=True
    )
    assert run.stderr == ""
    offers = [offer.splitlines() for offer in run.stdout.split("===\n")]
    found = [[one.partition("\t")[0] for one in offer] for offer in offers[:-1]]
    return dict(zip(lines, found, strict=True))


def test_fish() -> None:
    assert completed_by_fish([*TYPED]) == {
        typed: [completed.split()[-1]] for typed, completed in TYPED.items()
    }


def test_fish_has_every_option() -> None:
    options = {
        f"nitrohb {name} --": {
            option
            for action in parser._actions
            for option in action.option_strings
            if option.startswith("--")
        }
        for name, parser in subcommands(build_parser()).items()
    }
    offered = completed_by_fish([*options])
    assert {line: {*offers} for line, offers in offered.items()} == options


@pytest.mark.parametrize("program", [["groff", "-ww", "-man", "-z"], ["mandoc", "-T", "lint"]])
def test_the_man_page_is_well_formed(program: list[str]) -> None:
    run = subprocess.run([*program, str(PAGE)], capture_output=True, text=True)
    found = (run.stdout + run.stderr).splitlines()
    # The page has no date: it would change whenever the parser does.
    assert [line for line in found if "missing date" not in line] == []
