# SPDX-License-Identifier: Apache-2.0
"""Faults in whole systems: a process is killed, paused, or out of descriptors."""

import signal
from pathlib import Path

from .conftest import DOOMED, Enclaves, Siblings
from .machines import Device, Guest, Server, hybrid
from .parts import Parts

ONE = hybrid(4)
TWO = hybrid(5)
LISTEN = ("-l", "hybrid:vm4.vsock:9000", "-l", "hybrid:vm5.vsock:9000")

LATE = 10_000  # milliseconds: enough to pause a process before the byte arrives


def test_the_server_is_killed_between_accept_and_echo(
    siblings: Siblings, enclaves: Enclaves
) -> None:
    """The enclave fails. The port is free at once, and the next boot works."""
    with enclaves.booting(16, manner="silent") as guest:
        with siblings.parent.nitrohb("--keep") as server:
            guest.words.await_line("^init: connected")
            server.await_event("connected")
            server.send(signal.SIGKILL)
            assert server.ends() == -signal.SIGKILL
        with siblings.parent.nitrohb("--keep") as server:
            assert guest.outcome() == "silent: end"
            assert enclaves.boot(16) == "boot: echoed"
            server.await_event("heartbeat")


def test_the_server_is_killed_on_a_unix_socket(parts: Parts, tmp_path: Path) -> None:
    """Its socket files stay. The next server replaces them."""
    with Device(parts, tmp_path, ONE, TWO) as device:
        device.prepare(ONE.cid)
        with Guest(parts, tmp_path, ONE, cid=2, manner="silent") as guest:
            with Server(tmp_path, *LISTEN) as server:
                guest.words.await_line("^init: connected")
                server.await_event("connected")
                server.send(signal.SIGKILL)
                server.ends()
            assert len(list(tmp_path.glob("vm?.vsock_9000"))) == 2
            assert guest.outcome() == "silent: end"
        with Server(tmp_path, *LISTEN) as server:
            device.prepare(ONE.cid)
            with Guest(parts, tmp_path, ONE, cid=2) as guest:
                assert guest.outcome() == "boot: echoed"
            server.send(signal.SIGTERM)
            assert server.ends() == 128 + signal.SIGTERM
        assert list(tmp_path.glob("vm?.vsock_9000")) == []


def test_the_vmm_is_killed_in_mid_handshake(parts: Parts, tmp_path: Path) -> None:
    """The device closes the connection. The guest boots again."""
    with Server(tmp_path, *LISTEN) as server, Device(parts, tmp_path, ONE, TWO) as device:
        device.prepare(ONE.cid)
        with Guest(parts, tmp_path, ONE, cid=2, manner="silent") as guest:
            server.await_event("connected")
            guest.send(signal.SIGKILL)
            guest.ends()
        server.await_event("disconnected")
        device.prepare(ONE.cid)
        with Guest(parts, tmp_path, ONE, cid=2) as guest:
            assert guest.outcome() == "boot: echoed"


def test_the_vmm_of_a_sibling_is_killed_in_mid_handshake(
    siblings: Siblings, enclaves: Enclaves
) -> None:
    """Nothing closes its connection, so the deadline does. Meanwhile another enclave boots."""
    with siblings.parent.nitrohb("--keep", "--handshake-timeout", "8") as server:
        with enclaves.booting(DOOMED, manner="silent") as guest:
            server.await_peer("connected", DOOMED)
            guest.send(signal.SIGKILL)
            guest.ends()
        assert enclaves.boot(16) == "boot: echoed"
        assert server.await_peer("rejected", DOOMED)["reason"] == "timeout"


def test_a_guest_is_paused_for_longer_than_the_deadline(parts: Parts, tmp_path: Path) -> None:
    """Its connection is closed when it goes on. Meanwhile another enclave boots.

    SIGSTOP stops QEMU: the ``stop`` of its monitor would stop the device, too, and
    vhost-device-vsock 0.3.0 ends the thread of a guest that gets a packet then.
    """
    limit = ("--handshake-timeout", "2")
    with Server(tmp_path, *LISTEN, *limit) as server, Device(parts, tmp_path, ONE, TWO) as device:
        device.prepare(ONE.cid)
        with Guest(parts, tmp_path, ONE, cid=2, late=LATE) as guest:
            guest.words.await_line("^init: connected")
            guest.send(signal.SIGSTOP)
            assert server.await_event("rejected")["reason"] == "timeout"
            device.prepare(TWO.cid)
            with Guest(parts, tmp_path, TWO, cid=2) as other:
                assert other.outcome() == "boot: echoed"
            guest.send(signal.SIGCONT)
            assert guest.outcome() == "boot: end"


def test_the_descriptor_table_is_full(siblings: Siblings, enclaves: Enclaves) -> None:
    """The peer with the most connections makes room for an enclave that boots."""
    held = 60
    patient = ("--keep", "--handshake-timeout", "600")
    with siblings.parent.nitrohb(*patient, files=40) as server:
        with enclaves.booting(17, hold=held, manner="silent") as greedy:
            greedy.words.await_line(f"^init: holds {held}")
            # vhost-device-vsock 0.3.0 can lose a connection while another guest opens many.
            server.await_event("connected", held)
            server.await_event("evicted", held - 40)
            assert enclaves.boot(16) == "boot: echoed"
            assert {event["cid"] for event in server.events("evicted")} == {17}
            server.send(signal.SIGTERM)
            greedy.outcome()
        assert server.ends() == 128 + signal.SIGTERM
        (warning,) = server.err.lines
        assert "(EMFILE)" in warning.text
