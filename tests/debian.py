# SPDX-License-Identifier: Apache-2.0
"""Packages of other Debian releases, from the mirror that this machine uses."""

import os
import subprocess
from pathlib import Path

_CONFIG = """\
APT::Architecture "{arch}";
APT::Architectures "{arch}";
Dir::State "{directory}";
Dir::State::status "{directory}/status";
Dir::Cache "{directory}";
Dir::Etc::sourcelist "{directory}/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
APT::Sandbox::User "root";
"""
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def apt_of(suite: str, arch: str, directory: Path) -> dict[str, str]:
    """Configure apt for one suite and one architecture, in an empty directory, without root.

    Returns:
        The environment in which apt-get and apt-cache know its packages, and no others.
    """
    (directory / "lists/partial").mkdir(parents=True)
    (directory / "status").touch()
    source = f"deb [signed-by={_KEYRING}] {_mirror()} {suite} main\n"
    (directory / "sources.list").write_text(source, "utf-8")
    config = directory / "apt.conf"
    config.write_text(_CONFIG.format(arch=arch, directory=directory), "utf-8")
    env = {"APT_CONFIG": str(config)}
    subprocess.run(["apt-get", "update", "-q"], env=os.environ | env, check=True)
    return env


def _mirror() -> str:
    which = ("Origin: Debian", "Label: Debian")
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *which]
    known = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert known, "apt knows no mirror of Debian, which has the newer kernels: apt-get update"
    return known[0]
