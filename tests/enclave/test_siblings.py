# SPDX-License-Identifier: Apache-2.0
"""Enclave guests and their parent guest, in which nitrohb runs. Each has its own CID.

As on a real instance, the parent has CID 3. So the init is unmodified, and nitrohb sees the CID
of each enclave.
"""

import json
import signal
from contextlib import ExitStack

from .conftest import ENCLAVES, Enclaves, Siblings

API = "unix:/tmp/api.sock"


def test_three_enclaves_boot_at_once_and_each_is_awaited(
    siblings: Siblings, enclaves: Enclaves
) -> None:
    parent = siblings.parent
    with parent.nitrohb("--keep", "--api", API) as server, ExitStack() as running:
        waits = {
            cid: parent.start("-m", "nitrohb", "wait", "--api", API, "--cid", str(cid))
            for cid in ENCLAVES[:2]
        }
        guests = [running.enter_context(enclaves.booting(cid)) for cid in ENCLAVES]
        assert [guest.outcome() for guest in guests] == ["boot: echoed"] * 3
        # The wait for the last one begins after its heartbeat.
        late = ENCLAVES[-1]
        waits[late] = parent.start("-m", "nitrohb", "wait", "--api", API, "--cid", str(late))
        for cid, wait in waits.items():
            assert wait.ends() == 0, wait.err.lines
            (line,) = wait.out.lines
            assert f" cid={cid} " in line.text
        assert {event["cid"] for event in server.events("heartbeat")} == set(ENCLAVES)


def test_a_cid_that_is_not_allowed_and_a_wrong_byte_are_refused(
    siblings: Siblings, enclaves: Enclaves
) -> None:
    allowed = ("--allow-cid", "16", "--allow-cid", "18")
    with siblings.parent.nitrohb("--keep", *allowed) as server, ExitStack() as running:
        guests = [
            running.enter_context(enclaves.booting(16)),
            running.enter_context(enclaves.booting(17)),
            running.enter_context(enclaves.booting(18, byte="0x42")),
        ]
        outcomes = [guest.outcome() for guest in guests]
        assert outcomes == ["boot: echoed", "boot: end", "boot: end"]
        refused = [server.await_peer("rejected", cid) for cid in (17, 18)]
        assert [(event["reason"], event["byte"]) for event in refused] == [
            ("cid", None),
            ("wrong-byte", 0x42),
        ]
        server.await_peer("heartbeat", 16)
        assert len(server.events("heartbeat")) == 1
        assert server.err.lines == []


def test_a_silent_enclave_does_not_block_others(siblings: Siblings, enclaves: Enclaves) -> None:
    patient = ("--keep", "--handshake-timeout", "600")
    with siblings.parent.nitrohb(*patient) as server, enclaves.booting(17, manner="silent") as one:
        server.await_peer("connected", 17)
        assert enclaves.boot(16) == "boot: echoed"
        assert server.await_event("heartbeat")["cid"] == 16
        assert one.outcomes() == []  # it is silent still, and connected
        server.send(signal.SIGTERM)
        assert one.outcome() == "silent: end"


def test_an_enclave_without_a_listener_fails_and_the_next_boot_succeeds(
    siblings: Siblings, enclaves: Enclaves
) -> None:
    with enclaves.booting(16) as guest:
        assert guest.outcome() == "boot: refused"
        guest.words.await_line("^init: connect: Connection reset by peer")
    with siblings.parent.nitrohb() as server:  # on its default address, for one heartbeat
        assert enclaves.boot(16) == "boot: echoed"
        assert server.ends() == 0
        assert [event["event"] for event in server.events()] == [
            *("listening", "connected", "heartbeat", "done")
        ]
        (beat,) = server.events("heartbeat")
        assert (beat["address"], beat["cid"], beat["echoed"]) == ("vsock::9000", 16, True)
        assert beat["peer"].startswith("vsock:16:")
        assert server.err.lines == []


def test_an_enclave_boots_again(siblings: Siblings, enclaves: Enclaves) -> None:
    """Each boot has one heartbeat, which its launcher claims."""
    parent = siblings.parent
    claimed: list[str] = []
    with parent.nitrohb("--keep", "--api", API) as server:
        for _ in range(2):
            assert enclaves.boot(16) == "boot: echoed"
            wait = parent.start(
                *("-m", "nitrohb", "wait", "--api", API, "--cid", "16", "--format", "json")
            )
            assert wait.ends() == 0, wait.err.lines
            claimed.append(json.loads(wait.out.lines[0].text)["peer"])
        assert claimed == [event["peer"] for event in server.events("heartbeat")]
        assert len(set(claimed)) == 2
