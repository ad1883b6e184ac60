# SPDX-License-Identifier: Apache-2.0
"""The wheel and the sdist: the same bytes wherever they are built, checked, and tried."""

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
BIN = Path(sys.executable).parent
VERSION = nitrohb.__version__
SHARED = {
    "share/man/man1/nitrohb.1",
    "share/bash-completion/completions/nitrohb",
    "share/zsh/site-functions/_nitrohb",
    "share/fish/vendor_completions.d/nitrohb.fish",
}
NOT_OURS = shutil.ignore_patterns(
    ".git", ".nox", ".venv", "dist", "__pycache__", ".*_cache", ".hypothesis", "bench-results"
)


def run(
    *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, umask: int = -1
) -> str:
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=env,
        umask=umask,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(tree: Path, *what: str, umask: int = 0o022) -> dict[str, bytes]:
    """Build, and return the files' contents by name."""
    run(sys.executable, "-m", "build", "--no-isolation", *what, str(tree), umask=umask)
    return {path.name: path.read_bytes() for path in (tree / "dist").iterdir()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("first") / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_OURS)
    build(tree)
    return tree / "dist"


def unpack(dist: Path, target: Path) -> Path:
    with tarfile.open(dist / f"nitrohb-{VERSION}.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target / f"nitrohb-{VERSION}"


def test_every_build_has_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """In another directory, with another umask, other modes, and files of another time."""
    tree = tmp_path / "quite" / "another" / "directory"
    shutil.copytree(ROOT, tree, ignore=NOT_OURS)
    for path in tree.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
    built = build(tree, umask=0o077)
    assert built == {path.name: path.read_bytes() for path in dist.iterdir()}
    assert {*built} == {f"nitrohb-{VERSION}.tar.gz", f"nitrohb-{VERSION}-py3-none-any.whl"}


def test_the_wheel_of_the_sdist_is_that_of_the_tree(dist: Path, tmp_path: Path) -> None:
    tree = unpack(dist, tmp_path / "sdist")
    (name, wheel), *_ = build(tree, "--wheel").items()
    assert wheel == (dist / name).read_bytes()

    own = tmp_path / "tree"
    shutil.copytree(ROOT, own, ignore=NOT_OURS)
    assert build(own, "--wheel")[name] == wheel


def test_the_sdist_has_its_tests_and_what_they_need(dist: Path, tmp_path: Path) -> None:
    tree = unpack(dist, tmp_path)
    env = os.environ | {"PYTHONPATH": "src", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    pytest_ = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    run(*pytest_, "--collect-only", cwd=tree, env=env)
    some = ("test_readme.py", "test_generated.py", "test_package.py", "cli/test_usage.py")
    run(*pytest_, *(f"tests/{name}" for name in some), cwd=tree, env=env)


def test_the_checkers_have_nothing_to_say(dist: Path) -> None:
    files = [str(path) for path in dist.iterdir()]
    run("twine", "check", "--strict", *files)
    wheels = [name for name in files if name.endswith(".whl")]
    run("check-wheel-contents", *wheels, cwd=ROOT)  # where pyproject.toml tells it more
    # Of 10: an e-mail address and a URL of the project are missing, as it has neither.
    run("pyroma", "--min=8", "--file", *(name for name in files if name.endswith(".gz")))


def test_the_wheel_installed_by_itself(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", str(venv))
    run(str(venv / "bin" / "pip"), "install", "--quiet", str(wheel))
    script = str(venv / "bin" / "nitrohb")
    assert run(script, "--version") == f"nitrohb {VERSION}\n"
    assert "got 0xB7 back" in run(script, "demo")
    assert all((venv / name).is_file() for name in SHARED)
    assert run(script, "completion", "fish") == (
        (venv / "share/fish/vendor_completions.d/nitrohb.fish").read_text()
    )


def test_the_installation_for_systemd(dist: Path, tmp_path: Path) -> None:
    """The page's commands, in the sdist as a checkout, and below a directory of ours."""
    test = "tests/proofs/test_distributions.py::test_the_installation_for_systemd"
    commands = example("how-to/systemd.md", test)
    (tmp_path / "bin").mkdir()
    here = commands.replace("/opt/", f"{tmp_path}/").replace("/usr/local/bin", f"{tmp_path}/bin")
    run("bash", "-euo", "pipefail", "-c", here, cwd=unpack(dist, tmp_path))
    assert run(str(tmp_path / "bin/nitrohb"), "--version") == f"nitrohb {VERSION}\n"


def test_the_version_stands_in_one_place(dist: Path) -> None:
    """Everything else follows it: the names of the files, the metadata, the man page."""
    with zipfile.ZipFile(dist / f"nitrohb-{VERSION}-py3-none-any.whl") as wheel:
        metadata = wheel.read(f"nitrohb-{VERSION}.dist-info/METADATA").decode()
        page = wheel.read(f"nitrohb-{VERSION}.data/data/share/man/man1/nitrohb.1").decode()
        holders = [name for name in wheel.namelist() if _assigns_version(wheel.read(name))]
    assert f"\nVersion: {VERSION}\n" in metadata
    assert f'"nitrohb {VERSION}"' in page
    assert holders == ["nitrohb/__init__.py"]
    assert json.dumps(VERSION) not in (ROOT / "pyproject.toml").read_text()


def _assigns_version(source: bytes) -> bool:
    return f'"{VERSION}"'.encode() in source
