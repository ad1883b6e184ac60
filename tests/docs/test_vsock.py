# SPDX-License-Identifier: Apache-2.0
"""Examples that need a real AF_VSOCK. The enclave is this kernel's loopback, CID 1."""

import re
import sys
from pathlib import Path

import pytest

from tests.cli.process import nitrohb, started

from .examples import ROOT, example

pytestmark = pytest.mark.vsock

HERE = "tests/docs/test_vsock.py"
LOCAL = 1


def test_wait_by_cid(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "examples"), *sys.path])
    program = example("how-to/launcher.md", f"{HERE}::test_wait_by_cid")
    vmm = [sys.executable, "-m", "nitrohb", "send", f"vsock:{LOCAL}:9000"]
    of_three = re.compile(r"(?<=VMMS = ).*?\}\n", re.DOTALL)
    program, number = of_three.subn(f"{ {LOCAL: vmm} }\n", program)
    assert number == 1
    with pytest.raises(SystemExit, match=r"^0$"):
        exec(program, {})
    assert re.search(r"^booted: 1 after ", capsys.readouterr().out, re.MULTILINE)


def test_one_server_for_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with started("serve", "--keep", "--api", "unix:api.sock") as server:
        assert " nitro_listening address=vsock::9000 " in server.line()
        assert nitrohb("send", f"vsock:{LOCAL}:9000")[0] == 0
        assert " nitro_connected address=vsock::9000 cid=1 " in server.line()
        code, printed, _ = nitrohb("wait", "--api", "unix:api.sock", "--cid", str(LOCAL))
    assert (code, " nitro_heartbeat address=vsock::9000 cid=1 " in printed) == (0, True)
