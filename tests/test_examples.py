# SPDX-License-Identifier: Apache-2.0
"""What an example says before it starts anything; tests/enclave has the rest."""

import socket
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

BOOT_EIF = Path(__file__).parents[1] / "examples/boot_eif.py"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image for x86_64 with nothing in it: a header, whose last four bytes are the checksum."""
    image = tmp_path / "x.eif"
    header = b".eif".ljust(544, b"\0")
    image.write_bytes(header + zlib.crc32(header).to_bytes(4, "big"))
    return image


def refused(*args: str | Path) -> tuple[int, str]:
    """How the program ends, and its last line."""
    command = [sys.executable, BOOT_EIF, *args]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()[-1]


def test_what_is_no_image_is_refused(tmp_path: Path, image: Path) -> None:
    missing, damaged = tmp_path / "missing", tmp_path / "damaged"
    damaged.write_bytes(image.read_bytes() + b"x")
    for path, why in {
        missing: f"[Errno 2] No such file or directory: '{missing}'",
        BOOT_EIF: f"{BOOT_EIF} is not an EIF",
        damaged: f"{damaged} is damaged: its checksum is wrong",
    }.items():
        assert refused(path) == (2, f"boot_eif.py: error: {why}")


def test_a_device_that_is_not_there_is_refused(tmp_path: Path, image: Path) -> None:
    why = f"{tmp_path} is not a socket: start vhost-device-vsock first"
    assert refused("--vhost-user", tmp_path, image) == (2, f"boot_eif.py: error: {why}")


def test_a_qemu_that_is_not_there_is_missed(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as device:
        device.bind("vhost")
        code, why = refused("--vhost-user", "vhost", image)
    assert code == 1
    assert why.startswith("boot_eif: qemu-system-x86_64 is not in PATH. To install it: apt-get ")
