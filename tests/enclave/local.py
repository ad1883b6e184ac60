# SPDX-License-Identifier: Apache-2.0
"""nitrohb as a process of this machine, for guests whose device takes them here."""

import json
import sys
from pathlib import Path
from typing import Any

from .machines import NITROHB, Program


class Server(Program):
    """A server that keeps on, and prints JSON."""

    def __init__(self, directory: Path, *args: str) -> None:
        options = ("serve", "--keep", "--format", "json", *args)
        super().__init__(sys.executable, *NITROHB, *options, cwd=directory)
        self.await_event("listening", args.count("-l"))

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The events that it has printed so far, of all names or of some."""
        events = [json.loads(text) for text in self._texts(events=True)]
        return [event for event in events if not names or event["event"] in names]

    def notes(self) -> list[str]:
        """What else it has said."""
        return self._texts(events=False)

    def _texts(self, *, events: bool) -> list[str]:
        return [line.text for line in self.words.lines if line.text.startswith("{") is events]

    def await_event(self, name: str, nth: int = 1) -> dict[str, Any]:
        """Wait for the first event of a name, or for the nth."""
        event: dict[str, Any] = json.loads(self.words.await_line(rf'"event": "{name}"', nth).text)
        return event
