# SPDX-License-Identifier: Apache-2.0
"""Make dist/nitrohb.pyz: nitrohb, what it depends on, and the API, in one file.

``nox -s release`` runs this. shiv and pex unpack their files into the user's home before they
start; zipapp, of the standard library, runs them where they are, which needs no place to write.

The file contains the source, and its byte code for each ``--python``: without it a start takes
twice as long until it listens, and nearly three times as long until it answers.
"""

import argparse
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
OUT: Final = ROOT / "dist" / "nitrohb.pyz"
SHEBANG: Final = b"#!/usr/bin/env python3\n"
DATE: Final = (1980, 1, 1, 0, 0, 0)  # the first that a ZIP file can have

# Tests and the machinery for them; and what pip leaves there.
UNUSED: Final = {"__pycache__", "_tests", "testing", "bin"}

MAIN: Final = """\
import sys
tag = sys.implementation.cache_tag
sys.path[0] += "/" + (tag if tag in {tags!r} else "source")
from nitrohb.__main__ import main
sys.exit(main())
"""


def make(pythons: list[str], out: Path) -> None:
    """Make the file, with byte code for some Pythons."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "source")
        _install(source)
        trees = {"source": source}
        for python in pythons:
            tag = _output(python, "-c", "import sys; print(sys.implementation.cache_tag)")
            trees[tag] = _compiled(python, source, Path(directory, tag))
        out.parent.mkdir(exist_ok=True)
        with out.open("wb") as file:
            file.write(SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                _add(archive, "__main__.py", MAIN.format(tags=sorted(trees)).encode())
                for name, tree in trees.items():
                    for path in _files(tree):
                        _add(archive, f"{name}/{path.relative_to(tree)}", path.read_bytes())
        out.chmod(out.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


def _install(target: Path) -> None:
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet"]
    env = os.environ | {"UV_COMPILE_BYTECODE": "0"}  # each Python compiles its own copy, see make()
    subprocess.run([*uv, "--target", str(target), f"{ROOT}[api]"], check=True, env=env)
    for path in [*target.rglob("*")]:
        if path.name in UNUSED or path.suffix == ".dist-info":
            shutil.rmtree(path, ignore_errors=True)
    if binaries := [*target.rglob("*.so")]:
        sys.exit(f"not pure Python, and so not to be run from a ZIP file: {binaries}")


def _compiled(python: str, source: Path, target: Path) -> Path:
    """A copy of the source with byte code in its stead, that asks for no date of a source."""
    shutil.copytree(source, target)
    how = ["-q", "-b", "--invalidation-mode", "unchecked-hash", "-s", str(target)]
    subprocess.run([python, "-m", "compileall", *how, str(target)], check=True)
    for path in target.rglob("*.py"):
        path.unlink()
    return target


def _files(tree: Path) -> Iterator[Path]:
    return (path for path in sorted(tree.rglob("*")) if path.is_file())


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, DATE)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | 0o644) << 16
    archive.writestr(entry, content)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", action="append", default=[])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    make(args.python, args.out)
