# SPDX-License-Identifier: Apache-2.0
"""The units in deploy/systemd, and the page about them, checked with systemd-analyze."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.examples import blocks

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy" / "systemd"
PAGE = (ROOT / "docs" / "how-to" / "systemd.md").read_text()

# Instances, because systemd cannot start a template.
UNITS = {
    "nitrohb.socket": "nitrohb.socket",
    "nitrohb.service": "nitrohb.service",
    "nitrohb-once@.service": "nitrohb-once@16.service",
    "nitrohb-metrics.socket": "nitrohb-metrics.socket",
    "nitrohb-metrics.service": "nitrohb-metrics.service",
    "enclave@.service": "enclave@web.service",
    "enclave-daemon@.service": "enclave-daemon@web.service",
}
SERVICES = ["nitrohb.service", "nitrohb-once@16.service"]
MOST = 2.0


def block(kind: str, beginning: str) -> str:
    """The only block of the page of this kind with this beginning."""
    found = [it.text for it in blocks(PAGE) if it.kind == kind and it.text.startswith(beginning)]
    (text,) = found
    return text


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A directory with the units, and a program that they can name."""
    for name, instance in UNITS.items():
        shutil.copy(DEPLOY / name, tmp_path / name)
        if instance != name:
            shutil.copy(DEPLOY / name, tmp_path / instance)
    return tmp_path


def analyze(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *args], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", UNITS.values())
def test_systemd_accepts_the_units(name: str, units: Path) -> None:
    # The tests need no installed nitrohb: any program in the path of systemd is enough.
    for unit in units.iterdir():
        text = unit.read_text().replace("ExecStart=nitrohb ", "ExecStart=env nitrohb ")
        unit.write_text(text)
    done = analyze("verify", "--man=no", str(units / name))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_finds_a_mistake_in_a_unit(units: Path) -> None:
    unit = units / "nitrohb.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=30", "WatchdogSec=soon"))
    assert "Failed to parse" in analyze("verify", "--man=no", str(unit)).stderr


@pytest.mark.parametrize("mistake", [False, True])
def test_systemd_understands_the_drop_in_of_the_page(mistake: bool, units: Path) -> None:
    text = block("ini", "[Socket]")
    directory = units / "nitrohb.socket.d"
    directory.mkdir()
    wrong = f"{text.splitlines()[0]}\nNoSuchSetting=1\n"
    (directory / "override.conf").write_text(wrong if mistake else text)
    for one in units.glob("*.service"):
        one.write_text(one.read_text().replace("ExecStart=nitrohb ", "ExecStart=env nitrohb "))
    done = analyze("verify", "--man=no", str(units / "nitrohb.socket"))
    assert (done.returncode, bool(done.stderr)) == (0, mistake), done.stderr


def exposure(unit: Path) -> float:
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+) ", done.stdout)
    return float(figure)


@pytest.mark.parametrize("name", SERVICES)
def test_the_services_are_sandboxed(name: str, units: Path) -> None:
    figure = exposure(units / name)
    assert figure < MOST
    threshold = f"--threshold={round(MOST * 10) - 1}"  # systemd-analyze(1): in tenths
    done = analyze("security", "--offline=true", "--no-pager", threshold, str(units / name))
    assert done.returncode == 0, done.stdout


def test_a_service_without_a_sandbox_is_found(units: Path) -> None:
    unit = units / "nitrohb.service"
    unit.write_text("[Service]\nExecStart=nitrohb\n")
    assert exposure(unit) > MOST


def test_the_files_that_the_page_names_exist() -> None:
    install = block("sh", "cp deploy/systemd/*.socket")
    assert "cp deploy/systemd/*.socket deploy/systemd/*.service /etc/systemd/system/" in install
    assert {path.name for path in DEPLOY.glob("*.*") if path.is_file()} == set(UNITS)
    dropins = [str(path.relative_to(DEPLOY)) for path in DEPLOY.glob("*.d/*")]
    assert dropins == ["nitrohb.service.d/api.conf"]
    for name in [*UNITS, *dropins]:
        assert any(name.replace("@.", f"@{it}.") in PAGE for it in ("", "CID", "NAME"))


def test_the_settings_that_the_page_names_are_in_the_units() -> None:
    service = (DEPLOY / "nitrohb.service").read_text()
    once = (DEPLOY / "nitrohb-once@.service").read_text()
    socket = (DEPLOY / "nitrohb.socket").read_text()
    api = (DEPLOY / "nitrohb.service.d" / "api.conf").read_text()
    assert "ExecStart=nitrohb " in service
    assert "SuccessExitStatus=143\n" in service
    assert "SuccessExitStatus=143\n" in once
    assert "Environment=BOOT_SECONDS=180\n" in once
    assert "FileDescriptorName=heartbeat\n" in socket
    group = block("ini", "[Service]\nGroup=")
    for line in group.replace(" --api-mode 660", "").replace("Group=enclaves\n", "").splitlines():
        assert line in api.splitlines()
