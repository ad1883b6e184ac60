# SPDX-License-Identifier: Apache-2.0
"""docs/reference/doctor.md names every check and verdict, and its example runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nitrohb.doctor.verdicts import Verdict

from .test_examine import NAMES

MANUAL = (Path(__file__).parents[2] / "docs" / "reference" / "doctor.md").read_text()


def test_every_verdict_and_check_is_there_in_its_order() -> None:
    assert re.findall(r"^\| `([\w-]+)` \|", MANUAL, re.MULTILINE) == [*NAMES]
    verdicts = MANUAL.partition("The verdicts are ")[2].partition("\n\n")[0]
    assert re.findall(r"`(\w+)`", verdicts) == [*Verdict]


def test_the_example_prints_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
    (command, shown) = re.findall(r"```(?:sh|text)\n(.*?)```", MANUAL, re.DOTALL)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout == shown
