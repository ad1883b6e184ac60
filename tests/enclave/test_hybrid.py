# SPDX-License-Identifier: Apache-2.0
"""Guests whose connections to CID 2 arrive on Unix sockets, on which nitrohb listens."""

import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from .machines import Device, Guest, Server, hybrid
from .parts import Parts

NOBODY = 65534

ONE = hybrid(4)
TWO = hybrid(5)
ADDRESSES = {vm: f"hybrid:vm{vm.cid}.vsock:9000" for vm in (ONE, TWO)}


def test_one_server_for_several_guests(parts: Parts, tmp_path: Path) -> None:
    listen = ("-l", ADDRESSES[ONE], "-l", ADDRESSES[TWO])
    with Server(tmp_path, *listen) as server, Device(parts, tmp_path, ONE, TWO) as device:
        device.prepare(ONE.cid)
        device.prepare(TWO.cid)
        with ExitStack() as running:
            guests = [running.enter_context(Guest(parts, tmp_path, vm, cid=2)) for vm in (ONE, TWO)]
            assert [guest.outcome() for guest in guests] == ["boot: echoed"] * 2
        server.await_event("heartbeat", 2)
        beats = server.events("heartbeat")
        assert {beat["address"] for beat in beats} == set(ADDRESSES.values())
        assert {(beat["cid"], beat["peer"], beat["echoed"]) for beat in beats} == {
            (None, None, True)
        }


def test_a_deleted_socket_file_is_created_again(parts: Parts, tmp_path: Path) -> None:
    with Server(tmp_path, "-l", ADDRESSES[ONE]) as server, Device(parts, tmp_path, ONE) as device:
        (file,) = tmp_path.glob("vm4.vsock_*")
        file.unlink()  # as a script does before it starts the VM
        deleted = time.time()
        lost = server.words.await_line('"event": "lost"')
        server.await_event("listening", 2)
        back = server.words.await_line('"event": "listening"', 2)
        assert deleted <= lost.time <= back.time < deleted + 1.0
        device.prepare(ONE.cid)
        with Guest(parts, tmp_path, ONE, cid=2) as guest:
            assert guest.outcome() == "boot: echoed"
        assert server.notes() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the device as another user")
def test_the_device_runs_as_another_user(parts: Parts, tmp_path: Path) -> None:
    """With ``--socket-mode`` and ``--socket-group`` this user can connect, and without them not."""
    tmp_path.chmod(0o777)  # the device makes its own sockets here
    shutil.copy(parts.device, tmp_path / "device")  # a path that this user can reach
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "./device")
    shared = ("--socket-mode", "660", "--socket-group", str(NOBODY))
    for options, outcome in (((), "boot: refused"), (shared, "boot: echoed")):
        with (
            Server(tmp_path, "-l", ADDRESSES[ONE], *options) as server,
            Device(parts, tmp_path, ONE, command=user) as device,
        ):
            device.prepare(ONE.cid)
            with Guest(parts, tmp_path, ONE, cid=2) as guest:
                assert guest.outcome() == outcome
            if outcome == "boot: refused":
                guest.words.await_line("^init: connect: Connection timed out")
                assert server.events("connected") == []
            else:
                server.await_event("heartbeat")
