# SPDX-License-Identifier: Apache-2.0
"""dist/nitrohb.pyz with only a Python, and an empty home that is not writable."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import nitrohb
from tests.cli.process import started, wait_for_file

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "dist" / "nitrohb.pyz"
PYTHONS = os.environ.get("NITROHB_PYTHONS", "").split()


@pytest.fixture(params=[f"python{version}" for version in PYTHONS])
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Return a command that runs a copy in an empty directory."""
    place, home = tmp_path / "place", tmp_path / "home"
    for directory in (place, home):
        directory.mkdir()
    pyz = Path(shutil.copy(BUILT, place))
    place.chmod(0o500)
    home.chmod(0o500)
    # -I ignores PYTHON* variables and the user site of the test environment.
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    if "PYENV_VERSION" in os.environ:
        env["PYENV_VERSION"] = os.environ["PYENV_VERSION"]
    code = "import sys; print(sys.base_prefix + '/bin/' + sys.argv[1])"
    found = subprocess.run(
        [request.param, "-c", code, request.param], env=env, check=True, capture_output=True
    )
    yield ("env", "-i", f"HOME={home}", found.stdout.decode().strip(), "-I", "-S", str(pyz))
    assert not [*home.iterdir()]
    assert [*place.iterdir()] == [pyz]


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_there_are_pythons_to_try() -> None:
    assert PYTHONS, "NITROHB_PYTHONS says which: nox -s release does"


def test_short_commands(command: tuple[str, ...]) -> None:
    assert run(*command, "--version") == f"nitrohb {nitrohb.__version__}\n"
    assert "0xB7" in run(*command, "demo")
    assert "complete" in run(*command, "completion", "bash")


@pytest.mark.parametrize("api", [False, True])
def test_serve_and_send(command: tuple[str, ...], api: bool, tmp_path: Path) -> None:
    sock, http = tmp_path / "hb", tmp_path / "api"
    options = ("--keep", "--api", f"unix:{http}") if api else ()
    with started("serve", "-l", f"unix:{sock}", *options, command=command) as server:
        wait_for_file(sock)
        assert "answered in" in run(*command, "send", f"unix:{sock}")
        if api:
            wait = ("wait", "--api", f"unix:{http}", "--address", f"unix:{sock}")
            assert "heartbeat" in run(*command, *wait)
            server.popen.terminate()
        code, out, _ = server.end()
    assert "heartbeat" in out
    assert code == (143 if api else 0)


def test_another_build_has_the_same_bytes(tmp_path: Path) -> None:
    before = BUILT.read_bytes()
    builder = str(ROOT / "deploy" / "packaging" / "zipapp.py")
    out = str(tmp_path / "again.pyz")
    pythons = [f"--python=python{version}" for version in PYTHONS]
    subprocess.run([sys.executable, builder, f"--out={out}", *pythons], check=True, umask=0o077)
    assert Path(out).read_bytes() == before


def test_it_has_byte_code_for_each_python_and_source_for_others() -> None:
    with zipfile.ZipFile(BUILT) as archive:
        trees = {name.partition("/")[0] for name in archive.namelist()} - {"__main__.py"}
    tags = {f"cpython-{version.replace('.', '')}" for version in PYTHONS}
    assert trees == {"source", *tags}
