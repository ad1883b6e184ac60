# SPDX-License-Identifier: Apache-2.0
"""A hundred and twenty connections from three guests, most of which misbehave."""

from collections import Counter
from contextlib import ExitStack

from .conftest import ENCLAVES, Enclaves, Siblings
from .machines import Remote

CONNECTIONS = (40, 40, 40)  # of each guest
SEEDS = (1, 2, 3)
MEGABYTE = 1024  # kilobytes


def soak(enclaves: Enclaves, server: Remote, counts: tuple[int, ...]) -> list[str]:
    """Let the guests connect at random. Return the outcomes of all connections."""
    with ExitStack() as running:
        guests = [
            running.enter_context(enclaves.booting(cid, manner="dice", count=count, seed=seed))
            for cid, count, seed in zip(ENCLAVES, counts, SEEDS, strict=True)
        ]
        for guest in guests:
            guest.outcome()
    return [outcome for guest in guests for outcome in guest.outcomes()]


def test_every_correct_enclave_is_answered(siblings: Siblings, enclaves: Enclaves) -> None:
    with siblings.parent.nitrohb("--keep", "--handshake-timeout", "2") as server:
        soak(enclaves, server, (5, 5, 5))  # by then the server has opened all that it needs
        before = server.look()
        outcomes = Counter(soak(enclaves, server, CONNECTIONS))
        after = server.look()
        assert outcomes.total() == sum(CONNECTIONS)
        assert outcomes["boot: echoed"] > sum(CONNECTIONS) // 5
        assert set(outcomes) == {
            *("boot: echoed", "shout: echoed", "wrong: end", "silent: end"),
            *("leave: end", "deaf: end"),
        }
        assert after["descriptors"] == before["descriptors"]
        assert after["kilobytes"] < before["kilobytes"] + MEGABYTE
        assert server.err.lines == []
    print(f"{outcomes.total()} connections: {dict(outcomes.most_common())}")
    print(f"before {before}, after {after}")
