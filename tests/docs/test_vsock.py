# SPDX-License-Identifier: Apache-2.0
"""Examples that need a real AF_VSOCK. The enclave is this kernel's loopback, CID 1."""

from pathlib import Path
from typing import Any

import pytest
import trio

from nitrohb import send_heartbeat
from tests.cli.process import nitrohb, started

from .examples import example

pytestmark = pytest.mark.vsock

HERE = "tests/docs/test_vsock.py"
LOCAL = 1


def test_wait_by_cid(capsys: pytest.CaptureFixture[str]) -> None:
    async def start_enclave(cid: int) -> None:
        await send_heartbeat(f"vsock:{cid}:9000")

    namespace: dict[str, Any] = {"start_enclave": start_enclave}
    exec(example("how-to/launcher.md", f"{HERE}::test_wait_by_cid"), namespace)
    trio.run(namespace["launch_all"], LOCAL)
    assert capsys.readouterr().out == "1 has booted\n"


def test_one_server_for_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    test = f"{HERE}::test_one_server_for_several"
    program, *args = example("how-to/several-enclaves.md", test).split()
    assert program == "nitrohb"
    with started(*args) as server:
        assert " nitro_listening address=vsock::9000 " in server.line()
        assert nitrohb("send", f"vsock:{LOCAL}:9000")[0] == 0
        assert " nitro_connected address=vsock::9000 cid=1 " in server.line()
        code, printed, _ = nitrohb("wait", "--api", "unix:api.sock", "--cid", str(LOCAL))
    assert (code, " nitro_heartbeat address=vsock::9000 cid=1 " in printed) == (0, True)
