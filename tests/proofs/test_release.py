# SPDX-License-Identifier: Apache-2.0
"""The files of ``nox -s release`` in dist/, and a wrong tag."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.packaging.release import CHANGELOG, disagreement
from nitrohb import __version__

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"


def test_the_checksums_verify() -> None:
    """They cover every other file: the sdist, the wheel and nitrohb.pyz, and no older ones."""
    names = {line.split()[1] for line in (DIST / "SHA256SUMS").read_text().splitlines()}
    assert names | {"SHA256SUMS"} == {path.name for path in DIST.iterdir()}
    assert {name.rpartition(".")[2] for name in names} == {"gz", "whl", "pyz"}
    assert len(names) == 3
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=DIST, check=True)


def test_a_changed_file_does_not_verify(tmp_path: Path) -> None:
    for path in DIST.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "nitrohb.pyz").open("ab") as file:
        file.write(b"\0")
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if not line.endswith(": OK")] == [
        "nitrohb.pyz: FAILED"
    ]


def test_a_wrong_tag_fails() -> None:
    command = [sys.executable, "-m", "deploy.packaging.release", "v9.9.9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "v9.9.9" in done.stderr
    assert f"v{__version__}" in done.stderr


def test_the_changelog_of_this_version_fits_it() -> None:
    assert disagreement(__version__, CHANGELOG.read_text("utf-8")) is None


@pytest.mark.parametrize(
    ("heading", "tag", "named"),
    [
        ("## [1.2.0]", None, None),
        ("## [1.2.0] - Unreleased", None, None),
        ("## [1.2.0] - 2027-01-31", "v1.2.0", None),
        ("## [1.2.0] - 2027-01-31\n\n## [1.1.0] - 2026-12-31", "v1.2.0", None),
        ("## [1.1.0] - 2026-12-31", None, "1.2.0"),
        ("## [1.1.0] - 2026-12-31\n\n## [1.2.0] - 2027-01-31", "v1.2.0", "1.2.0"),
        ("## [Unreleased]", "v1.2.0", "1.2.0"),
        ("", None, "1.2.0"),
        ("## [1.2.0]", "v1.2.0", "date"),
        ("## [1.2.0] - Unreleased", "v1.2.0", "date"),
        ("## [1.2.0] - 2027-01-31", "1.2.0", "v1.2.0"),
        ("## [1.2.0] - 2027-01-31", "v1.2.0rc1", "v1.2.0rc1"),
    ],
)
def test_version_changelog_and_tag(heading: str, tag: str | None, named: str | None) -> None:
    problem = disagreement("1.2.0", f"# Changelog\n\n{heading}\n\n- Something.\n", tag)
    if named is None:
        assert problem is None
    else:
        assert named in (problem or "")
