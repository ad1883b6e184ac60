# SPDX-License-Identifier: Apache-2.0
"""Runs the examples of a page, from top to bottom, as its reader would.

``sh`` is run by bash and ``python`` by Python, all of one page in one directory and one namespace.
A ``text`` or ``json`` block after it is what it prints. Words after the language, which no reader
of the page sees, say more::

    ```sh in another terminal               goes on while the next blocks run
    ```sh in another terminal, until the end of the page  and nothing shows what it prints
    ```text the other terminal shows        all that it has printed, when it has ended
    ```sh exit code 124                     how the command ends
    ```sh run by tests/x.py::test_name      not every machine can run it; that test does

A block that is neither run nor compared is an error: nobody would notice when it is wrong. Other
tests check what is generated: test_generated.py compares it, test_docstrings.py runs its examples.
"""

import io
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt

from tests.cli.process import PATIENCE, wait_for

__all__ = ["BIN", "ROOT", "Block", "blocks", "example", "run_page", "shape"]

ROOT: Final = Path(__file__).parents[2]

# The commands nitrohb and python3 of a page are those of the tests.
BIN: Final = str(Path(sys.executable).parent)

_OUTPUT: Final = ("text", "json")
_ELSEWHERE: Final = "run by "
_BEGINS: Final = "in another terminal"
_STAYS: Final = f"{_BEGINS}, until the end of the page"
_ENDS: Final = "the other terminal shows"
_EXIT_CODE: Final = "exit code "
_GENERATED: Final = re.compile(r"^<!-- generated: .*?^<!-- end -->$", re.MULTILINE | re.DOTALL)

# This differs from run to run. Everything else must be equal.
_VARYING: Final = {
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z": "TIME",
    r"(_seconds(?:=|\": ))[\d.]+(?:e-\d+)?(?= |,|$)": r"\1SECONDS",
    r"\b(answered in|after) \d+\.\d ms\b": r"\1 DURATION",
    r"/tmp/nitrohb-\w{8}/": "/tmp/nitrohb-NAME/",
    r"\b(owner|group) \d+\b": r"\1 ID",
    r"\b([pug]id(?:=|\": ))\d+": r"\1ID",
}


@dataclass(frozen=True)
class Block:
    """One block of code in a page."""

    kind: str
    text: str
    remark: str
    line: int

    @property
    def elsewhere(self) -> str:
        """What runs it, if that is not this module."""
        found = self.remark.startswith(_ELSEWHERE)
        return self.remark.removeprefix(_ELSEWHERE) if found else ""


def blocks(text: str) -> list[Block]:
    """All blocks of code in a page."""
    written = _GENERATED.sub(lambda found: "\n" * found[0].count("\n"), text)
    found: list[Block] = []
    for token in MarkdownIt("commonmark").parse(written):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            kind, _, remark = (token.info.strip() or "indented").partition(" ")
            found.append(Block(kind, token.content, remark, token.map[0] + 1))
    return found


def example(page: str, test: str) -> str:
    """The block of a page that a test runs, named as in the page: its path, ``::``, its name."""
    found = blocks((ROOT / "docs" / page).read_text())
    (text,) = [block.text for block in found if block.elsewhere == test]
    return text


def shape(text: str) -> str:
    """A text without what differs from run to run: times, measurements, temporary names."""
    text = text.replace(os.getcwd(), "/home/you")
    for pattern, name in _VARYING.items():
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.strip()


def run_page(path: Path) -> None:
    """Run all the examples of a page in the current directory, and compare what they print."""
    run = _Run(path)
    try:
        for block in blocks(path.read_text()):
            run.evaluate(block, f"{path}:{block.line}")
        assert run.other is None or run.stays, f"{path}: nobody has looked at the other terminal"
        if run.stays:
            run.end_other(str(path), interrupt=True)
    finally:
        run.clean_up()


@dataclass
class _Run:
    path: Path
    printed: str | None = None  # by what ran last, unless it has been compared already
    other: "subprocess.Popen[bytes] | None" = None
    stays: bool = False
    log: Path = field(default_factory=lambda: Path("other-terminal.log").absolute())
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})

    def evaluate(self, block: Block, where: str) -> None:
        if block.elsewhere:
            self.printed = None
        elif block.kind == "sh":
            self._run_shell(block, where)
        elif block.kind == "python":
            self._run_python(block)
        elif block.kind in _OUTPUT and block.remark == _ENDS:
            self._compare(block, self.end_other(where), where)
        elif block.kind in _OUTPUT and self.printed is not None:
            self._compare(block, self.printed, where)
            self.printed = None
        else:
            raise AssertionError(f"{where}: this {block.kind} block is executed by nobody")

    def _run_shell(self, block: Block, where: str) -> None:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        if block.remark in (_BEGINS, _STAYS):
            assert self.other is None, f"{where}: the other terminal is busy"
            self.stays = block.remark == _STAYS
            self.other = self._start(command)
            return
        expected = 0
        if block.remark:
            assert block.remark.startswith(_EXIT_CODE), f"{where}: what is {block.remark!r}?"
            expected = int(block.remark.removeprefix(_EXIT_CODE))
        done = subprocess.run(
            command,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == expected, f"{where}: {done.returncode}, {done.stdout}"
        self.printed = done.stdout

    def _start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Start a command, and wait for its first output: it listens then."""
        with self.log.open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for(
            lambda: self.log.stat().st_size > 0 or process.poll() is not None,
            f"the output of {command}",
        )
        return process

    def end_other(self, where: str, *, interrupt: bool = False) -> str:
        assert self.other is not None, f"{where}: there is no other terminal"
        if interrupt:
            os.killpg(self.other.pid, signal.SIGINT)
        code = self.other.wait(PATIENCE)
        self.other = None
        printed = self.log.read_text()
        assert code == (128 + signal.SIGINT if interrupt else 0), f"{where}: {code}, {printed}"
        return printed

    def _run_python(self, block: Block) -> None:
        output = io.StringIO()
        code = compile("\n" * block.line + block.text, self.path, "exec")
        with redirect_stdout(output), redirect_stderr(output):
            failure: object = None
            try:
                exec(code, self.namespace)
            except SystemExit as end:
                failure = end.code
            assert not failure, f"{self.path}: {failure}"
        self.printed = output.getvalue()

    def _compare(self, block: Block, printed: str, where: str) -> None:
        assert shape(printed) == shape(block.text), f"{where}: it prints\n{printed}"

    def clean_up(self) -> None:
        if self.other is not None:
            os.killpg(self.other.pid, signal.SIGKILL)
            self.other.wait(PATIENCE)
