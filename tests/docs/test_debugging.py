# SPDX-License-Identifier: Apache-2.0
"""From the symptom to the cause: the tree knows each event and each reason, and no others."""

import re
import tomllib
from typing import Any, get_args

from nitrohb import Event, RejectReason

from .examples import ROOT

TREE: dict[str, Any] = tomllib.loads((ROOT / "docs/how-to/debugging.toml").read_text())


def named(node: str) -> list[str]:
    return re.findall(r"`(.*?)`", " ".join(TREE[node]["answers"]))


def test_it_begins_with_every_event() -> None:
    assert sorted(named("start")) == sorted(event.name for event in get_args(Event))


def test_a_rejection_has_every_reason() -> None:
    assert sorted(named("rejected")) == sorted(RejectReason)
    assert all(re.fullmatch(r"reason `[\w-]+`", answer) for answer in TREE["rejected"]["answers"])
