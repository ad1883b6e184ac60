# SPDX-License-Identifier: Apache-2.0
"""The wheel and the sdist in dist/: reproducible, checked, installed."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import nitrohb
from tests.docs.examples import example

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
BIN = Path(sys.executable).parent
VERSION = nitrohb.__version__
SDIST, WHEEL = f"nitrohb-{VERSION}.tar.gz", f"nitrohb-{VERSION}-py3-none-any.whl"
SHARED = {
    "share/man/man1/nitrohb.1",
    "share/bash-completion/completions/nitrohb",
    "share/zsh/site-functions/_nitrohb",
    "share/fish/vendor_completions.d/nitrohb.fish",
}
NOT_OURS = shutil.ignore_patterns(
    ".git", ".nox", ".venv", "dist", "__pycache__", ".*_cache", ".hypothesis", "bench-results"
)


def run(*command: str | Path, cwd: Path | None = None, umask: int = -1, **env: str) -> str:
    """Run a program that must succeed, and return what it prints."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=os.environ | env,
        umask=umask,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    target = tmp_path_factory.mktemp("sdist")
    with tarfile.open(DIST / SDIST) as archive:
        archive.extractall(target, filter="data")
    return target / f"nitrohb-{VERSION}"


def test_every_build_has_the_same_bytes(tmp_path: Path) -> None:
    """In another directory, with another umask, other modes and file times, without an sdist."""
    tree = tmp_path / "quite" / "another" / "directory"
    shutil.copytree(ROOT, tree, ignore=NOT_OURS)
    for path in tree.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", tree, umask=0o077)
    for name in (SDIST, WHEEL):
        assert (tree / "dist" / name).read_bytes() == (DIST / name).read_bytes()


def test_the_sdist_has_its_tests_and_what_they_need(sdist: Path) -> None:
    """Collects every test, which reads most files, and runs those of the packaging."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    options = ("-q", "-p", "no:cacheprovider", "-k", "test_generated or test_package")
    run(sys.executable, "-m", "pytest", *options, cwd=sdist, PYTHONPATH="src", PATH=path)


def test_the_checkers_find_nothing() -> None:
    run("twine", "check", "--strict", DIST / SDIST, DIST / WHEEL)
    run("check-wheel-contents", DIST / WHEEL, cwd=ROOT)  # it reads pyproject.toml there
    # Of 10: the project has no e-mail address and no URL.
    run("pyroma", "--min=8", "--file", DIST / SDIST)


def test_the_wheel_installed_by_itself(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    uv = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python")
    run(*uv, venv / "bin" / "python", DIST / WHEEL)
    script = venv / "bin" / "nitrohb"
    assert run(script, "--version") == f"nitrohb {VERSION}\n"
    assert "0xB7" in run(script, "demo")
    assert [name for name in SHARED if not (venv / name).is_file()] == []
    assert run(script, "completion", "fish") == (
        (venv / "share/fish/vendor_completions.d/nitrohb.fish").read_text()
    )


def test_the_installation_for_systemd(sdist: Path, tmp_path: Path) -> None:
    """Run the commands of the page in the sdist, with a temporary directory instead of /."""
    test = "tests/proofs/test_distributions.py::test_the_installation_for_systemd"
    commands = example("how-to/systemd.md", test)
    (tmp_path / "bin").mkdir()
    here = commands.replace("/opt/", f"{tmp_path}/").replace("/usr/local/bin", f"{tmp_path}/bin")
    run("bash", "-euo", "pipefail", "-c", here, cwd=sdist)
    assert run(tmp_path / "bin/nitrohb", "--version") == f"nitrohb {VERSION}\n"


def test_one_file_has_the_version() -> None:
    """The names of the files, the metadata and the man page follow it."""
    with zipfile.ZipFile(DIST / WHEEL) as wheel:
        metadata = wheel.read(f"nitrohb-{VERSION}.dist-info/METADATA").decode()
        page = wheel.read(f"nitrohb-{VERSION}.data/data/share/man/man1/nitrohb.1").decode()
        quoted = f'"{VERSION}"'.encode()
        holders = [name for name in wheel.namelist() if quoted in wheel.read(name)]
    assert f"\nVersion: {VERSION}\n" in metadata
    assert f'"nitrohb {VERSION}"' in page
    assert holders == ["nitrohb/__init__.py"]
    assert json.dumps(VERSION) not in (ROOT / "pyproject.toml").read_text()
