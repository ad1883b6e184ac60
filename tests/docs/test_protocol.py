# SPDX-License-Identifier: Apache-2.0
"""The table of states in docs/explanation/protocol.md is what the handshake does."""

import re

from nitrohb.protocol import HEARTBEAT, Latch, ParentHandshake, State

from .examples import ROOT

READ = {
    "the heartbeat (0xB7; with `--any-byte`, any byte)": (HEARTBEAT, False),
    "the heartbeat, after a one-shot address (no `--keep`) has answered": (HEARTBEAT, True),
    "another byte": (b"\n", False),
    "the end of the stream": (b"", False),
}


def test_the_table_of_states() -> None:
    page = (ROOT / "docs/explanation/protocol.md").read_text()
    rows = re.findall(r"^\| (.+) \| \*(.+)\* \| (.+) \|$", page, re.MULTILINE)
    assert [what for what, _, _ in rows] == [*READ]
    assert {State(state) for _, state, _ in rows} == {*State} - {State.WAITING}
    for what, state, action in rows:
        read, answered = READ[what]
        latch = Latch()
        latch.answered = answered
        handshake = ParentHandshake(latch)
        assert handshake.receive(read) is State(state)
        assert action == ("echoes the byte, and closes" if handshake.reply else "closes")
