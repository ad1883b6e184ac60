# SPDX-License-Identifier: Apache-2.0
"""Run a command under a seccomp profile: ``python -m tests.seccomp_profile FILE CMD``.

The profile is loaded as a container runtime does it, by libseccomp.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pyseccomp  # type: ignore[import-untyped]

ARCHITECTURES = {
    "SCMP_ARCH_X86_64": pyseccomp.Arch.X86_64,
    "SCMP_ARCH_AARCH64": pyseccomp.Arch.AARCH64,
}


def load(profile: Path) -> None:
    """Apply a profile to this process and its children."""
    rules: dict[str, Any] = json.loads(profile.read_text())
    assert rules["defaultAction"] == "SCMP_ACT_ERRNO"
    refused = pyseccomp.ERRNO(rules["defaultErrnoRet"])
    seccomp = pyseccomp.SyscallFilter(defaction=refused)
    for name in rules["architectures"]:
        if not seccomp.exist_arch(ARCHITECTURES[name]):
            seccomp.add_arch(ARCHITECTURES[name])
    for group in rules["syscalls"]:
        assert group["action"] == "SCMP_ACT_ALLOW"
        conditions = [condition(of) for of in group.get("args", [])]
        for name in group["names"]:
            seccomp.add_rule(pyseccomp.ALLOW, name, *conditions)
    seccomp.load()


def condition(of: dict[str, Any]) -> Any:
    """A condition on an argument."""
    if of["op"] == "SCMP_CMP_MASKED_EQ":
        return pyseccomp.Arg(of["index"], pyseccomp.MASKED_EQ, of["value"], of["valueTwo"])
    assert of["op"] == "SCMP_CMP_EQ"
    return pyseccomp.Arg(of["index"], pyseccomp.EQ, of["value"])


if __name__ == "__main__":
    load(Path(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
