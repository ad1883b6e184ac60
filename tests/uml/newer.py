# SPDX-License-Identifier: Apache-2.0
"""The User Mode Linux of Debian sid, for a machine with an older C library than it needs."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests import debian

SUITE = "sid"


def bring(directory: Path) -> None:
    """Bring that kernel, its modules, and a C library that nothing else uses.

    Args:
        directory: Where to unpack them. If a kernel runs from there already, nothing is done.
    """
    program = directory / "usr/bin/linux.uml"
    with suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([program, "--version"], stdout=subprocess.DEVNULL, check=True)
        return
    shutil.rmtree(directory, ignore_errors=True)  # its loader's path is that of another directory
    directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=directory) as name:
        env = os.environ | debian.apt_of(SUITE, "amd64", Path(name, "apt"))
        download = ["apt-get", "download", "-q", "user-mode-linux", "libc6"]
        subprocess.run(download, cwd=name, env=env, check=True)
        for package in Path(name).glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, directory], check=True)
    (loader,) = directory.glob("usr/lib/*/ld-linux*.so.2")
    uses = ("--set-interpreter", loader, "--set-rpath", loader.parent)
    subprocess.run(["patchelf", *uses, program], check=True)


if __name__ == "__main__":
    bring(Path(sys.argv[1]))
