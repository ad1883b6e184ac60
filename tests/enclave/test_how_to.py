# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/how-to/qemu.md, as they stand; test_forwarded.py has those of AF_VSOCK."""

import re

from .parts import DEVICE, DEVICE_VERSION, HOW_TO, PROGRAMS, commands
from .reader import Reader

RUN_HERE = {"hybrid: nitrohb", "hybrid: device", "hybrid: guest"}
RUN_FORWARDED = {f"forward: {what}" for what in ("module", "nitrohb", "device", "guest", "eif")}
RUN_FORWARDED.add("image: boot")
RUN_BY_THE_SESSION = {"install", "guest", "image"}


def test_every_command_is_run_somewhere() -> None:
    text = HOW_TO.read_text("utf-8")
    named = set(re.findall(r"^<!-- (.*) -->\n```sh\n", text, re.MULTILINE))
    assert named == RUN_HERE | RUN_FORWARDED | RUN_BY_THE_SESSION
    assert len(named) == text.count("```sh\n")


def test_what_it_takes_is_what_the_session_installs() -> None:
    debian, cargo = commands("install").splitlines()
    packages = {name for names in PROGRAMS.values() for name in names.split()}
    assert packages - {"user-mode-linux", "util-linux"} == set(debian.split()) & packages
    assert cargo == f"cargo install {DEVICE} --version {DEVICE_VERSION} --locked"


def test_the_commands(reader: Reader) -> None:
    with reader.serves("hybrid") as server:
        with reader.runs("hybrid: guest") as guest:
            guest.words.await_line("^init: boot: echoed")
            assert guest.ends() == 0
        server.words.await_line("heartbeat .*hybrid:vm4.vsock:9000 ")
