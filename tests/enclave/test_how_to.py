# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/how-to/qemu.md. test_forwarded.py has those that need AF_VSOCK."""

import re
from pathlib import Path

from .machines import until
from .parts import CRATES, DEVICE, HOW_TO, PROGRAMS, commands
from .reader import Reader

RUN_HERE = {
    *("hybrid: device", "hybrid: run"),
    *("siblings: parent", "siblings: device", "siblings: boot", "siblings: enclave"),
}
RUN_FORWARDED = {"forward: device", "forward: run"}
RUN_WITH_AN_IMAGE = {"image: boot", "eif: run"}
RUN_BY_THE_SESSION = {"install", "guest", "image"}
IS_THE_READERS = {"environment"}
NOT_FOR_THE_READER = {
    *("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "libssl-dev", "pkg-config"),
    *("user-mode-linux", "util-linux"),
}


def test_every_command_is_run_somewhere() -> None:
    text = HOW_TO.read_text("utf-8")
    named = set(re.findall(r"^```sh (.*)\n", text, re.MULTILINE))
    assert (
        named == RUN_HERE | RUN_FORWARDED | RUN_WITH_AN_IMAGE | RUN_BY_THE_SESSION | IS_THE_READERS
    )
    assert len(named) == text.count("```sh")


def test_the_session_installs_what_the_page_installs() -> None:
    apt, cargo = commands("install").splitlines()
    packages = {name for names in PROGRAMS.values() for name in names.split()}
    assert packages - NOT_FOR_THE_READER == packages & {*apt.split()}
    assert cargo == f"cargo install {DEVICE} --version {CRATES[DEVICE]} --locked"


def test_the_commands(reader: Reader) -> None:
    """They boot guests one after another, with one device."""
    with reader.device("hybrid: device"):
        for _ in range(2):
            reader.boots("hybrid: run", "heartbeat .*hybrid:vm4.vsock:9000 ")


def test_the_parent_and_its_sibling(reader: Reader, tmp_path: Path) -> None:
    reader.makes_a_parent()
    with reader.runs("siblings: device"):
        for name in ("vhost3.socket", "vhost16.socket"):
            until((tmp_path / name).exists, name)
        with reader.runs("siblings: boot") as parent:
            parent.words.await_line("nitro_listening")
            with reader.runs("siblings: enclave") as enclave:
                parent.words.await_line("nitro_heartbeat .* cid=16 ")
                enclave.words.await_line("Hello")
                assert enclave.ends() == 0
