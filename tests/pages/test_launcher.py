# SPDX-License-Identifier: Apache-2.0
"""The launchers of docs/how-to/launcher.md: for one enclave, and for several."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.process import wait_for
from tests.docs.examples import BIN, ROOT, blocks, example

PAGE = (ROOT / "docs/how-to/launcher.md").read_text()
ONE = next(block.text for block in blocks(PAGE) if block.kind == "python")
LIMIT = "boot_timeout(eif_bytes=500 * 2**20, memory_mib=4096)"
PROGRAM = example("how-to/launcher.md", "tests/docs/test_vsock.py::test_wait_by_cid")
SEND = f'["{BIN}/nitrohb", "send", '


def on_unix_sockets(*addresses: str, vmm: str | None = None) -> str:
    """Return the program for some addresses. The default VMM sends its heartbeat."""
    vmms = {address: vmm or f"{SEND}{address!r}]" for address in addresses}
    entries = "".join(f"    {address!r}: {command},\n" for address, command in vmms.items())
    program, number = re.subn(r"(?<=VMMS = \{\n).*?(?=\}\n)", entries, PROGRAM, flags=re.DOTALL)
    assert number == 1
    return program


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", BIN, prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples"))


def said_in_a_few_lines(program: str, lines: int = 4, code: int = 0) -> str:
    """Run a program, and return its output, which must be a few lines without a traceback."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in done.stdout
    assert done.returncode == code
    assert len(done.stdout.splitlines()) <= lines
    return done.stdout


@pytest.mark.parametrize(
    ("address", "vmm", "why"),
    [
        ("unix:e", ["sleep", "60"], "no heartbeat on unix:e came within 0.5 s: nobody connected"),
        ("unix:e", ["sh", "-c", "exit 3"], "exit status 3"),
        ("unix:e", ["/no/such/vmm"], "/no/such/vmm"),
        ("unix:no/e", ["true"], "cannot listen on unix:no/e"),
        ("tcp:e", ["true"], "'tcp:e' is not an address"),
        ("unix:e", ["nitrohb", "send", "unix:e", "-x"], "exit status 2"),
    ],
)
def test_it_prints_an_error_in_a_few_lines_and_fails(
    address: str, vmm: list[str], why: str
) -> None:
    given = '"unix:enclave.sock", ["nitrohb", "send", "unix:enclave.sock"]'
    assert ONE.count(given) == ONE.count(LIMIT) == 1
    limit = "0.5" if "sleep" in vmm else "60"
    program = ONE.replace(LIMIT, limit).replace(given, f"{address!r}, {vmm}")
    assert why in said_in_a_few_lines(program, code=1)


# A VMM that runs for a while after its boot.
VMM = """
import socket, time
with socket.socket(socket.AF_UNIX) as enclave:
    enclave.connect("e")
    enclave.sendall(b"\\xb7")
    enclave.recv(1)
time.sleep(1.2)
print("the VMM has ended by itself")
"""


def test_it_limits_the_time_of_the_boot_but_not_of_the_vmm() -> None:
    given = '["nitrohb", "send", "unix:enclave.sock"]'
    program = ONE.replace(given, repr([sys.executable, "-Sc", VMM]))
    program = program.replace("unix:enclave.sock", "unix:e").replace(LIMIT, "1")
    assert {*said_in_a_few_lines(program).splitlines()} == {  # the order of the lines varies
        "unix:e has booted",
        "the VMM has ended by itself",
    }


def test_three_enclaves_boot() -> None:
    addresses = [f"hybrid:vm{number}:9000" for number in range(3)]
    printed = said_in_a_few_lines(on_unix_sockets(*addresses), lines=6)
    for address in addresses:
        assert f"booted: {address} after" in printed


@pytest.mark.parametrize(
    ("one", "vmm", "why"),
    [
        (
            "unix:e",
            '["sleep", "60"]',
            "launch: unix:e: no heartbeat on unix:e came within 0.5 s: nobody",
        ),
        ("unix:e", '["true"]', "launch: unix:e: the VMM ended with status 0 before its heartbeat"),
        ("unix:e", '["false"]', "launch: unix:e: the VMM ended with status 1 before its heartbeat"),
        ("unix:no/e", '["true"]', "launch: unix:no/e: cannot listen on unix:no/e"),
    ],
)
def test_several_enclaves_an_error_is_a_line(one: str, vmm: str, why: str) -> None:
    program = on_unix_sockets(one, "unix:f", vmm=vmm)
    assert program.count("seconds=180") == 1
    program = program.replace("seconds=180", "seconds=0.5" if "sleep" in vmm else "seconds=60")
    assert why in said_in_a_few_lines(program, code=1)


LAUNCH_TWICE = """
class Twice(Launcher):
    async def launch(self, *args):
        await super().launch(*args)
        await super().launch(*args)
"""


def test_a_vmm_can_be_launched_again() -> None:
    program = on_unix_sockets("unix:e").replace("VMMS = {", f"{LAUNCH_TWICE}\nVMMS = {{")
    printed = said_in_a_few_lines(program.replace("(Launcher(", "(Twice("))
    assert printed.count("booted: unix:e after") == 2


def test_several_enclaves_a_signal_ends_the_vmms(tmp_path: Path) -> None:
    vmm = "echo $$ >> vmms; exec sleep 60"
    program = on_unix_sockets("unix:e", "unix:f", vmm=repr(["sh", "-c", vmm]))
    vmms = tmp_path / "vmms"
    with subprocess.Popen([sys.executable, "-c", program]) as launcher:
        wait_for(lambda: vmms.exists() and vmms.read_text().count("\n") == 2, "two VMMs")
        launcher.terminate()
    assert launcher.returncode == 128 + signal.SIGTERM
    assert not [pid for pid in vmms.read_text().split() if Path("/proc", pid).exists()]
    assert not (tmp_path / "e").exists()
