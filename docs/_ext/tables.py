# SPDX-License-Identifier: Apache-2.0
"""Tables that are made from the code: commands, exit codes, events, metrics, errors.

``{from-code} NAME`` in a page is replaced by the Markdown that the function of this name returns.
"""

import errno
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, get_args

from docutils import nodes
from prometheus_client.parser import text_string_to_metric_families
from sphinx.util.docutils import SphinxDirective

from deploy.packaging.manpage import exit_code_meanings, summaries
from nitrohb import Event, Lost, Rejected, RejectReason, VsockAddress, parse_address
from nitrohb.cli.report import to_json, to_text
from nitrohb.remedies import NO_AF_VSOCK, connect_error, listen_error

from .command_line import create_parser
from .event_schema import Json, create_schema, schema_of, summary

__all__ = ["setup"]

_COMMON: Final = ("event", "time", "address", "cid", "level")

_PATIENCE: Final = 30.0  # seconds

_SAMPLES: Final[dict[str, object]] = {
    "peer": VsockAddress(16, 1023),
    "listening_seconds": 2.53125,
    "echo_seconds": 0.000204,
    "echoed": True,
    "reason": RejectReason.WRONG_BYTE,
    "replaced": False,
    "problem": None,
}

_LISTEN: Final = (
    ("vsock::9000", NO_AF_VSOCK, errno.EAFNOSUPPORT, errno.EPERM, errno.EADDRINUSE),
    ("vsock:16:9000", errno.EADDRNOTAVAIL),
    ("vsock:1:9000", errno.EADDRNOTAVAIL),
    ("vsock::900", errno.EACCES),
    ("unix:/run/nitrohb/hb", errno.ENOENT, errno.EACCES, errno.EADDRINUSE, errno.EEXIST),
    ("fd:3", errno.EBADF, errno.ENOTSOCK, errno.EINVAL),
)
_CONNECT: Final = (
    ("vsock:3:9000", errno.ECONNRESET, errno.ENODEV, errno.ETIMEDOUT),
    ("unix:/run/nitrohb/hb", errno.ENOENT, errno.ECONNREFUSED, errno.EACCES),
)


def setup(app: Any) -> None:
    """Add the directive, and the schema to the site."""
    app.add_directive("from-code", _FromCode)
    app.connect("build-finished", _publish_schema)


class _FromCode(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        text = _TABLES[self.arguments[0]]()
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _publish_schema(app: Any, exception: Exception | None) -> None:
    if exception is None:
        where = Path(app.outdir) / "events.schema.json"
        where.write_text(json.dumps(create_schema(), indent=2) + "\n")


def _exit_codes() -> str:
    rows = [
        (f"`{code}`", " ".join(said.split()).replace("``", "`"))
        for code, said in sorted(exit_code_meanings().items())
    ]
    return _table(("code", "meaning"), rows)


def _commands() -> str:
    parser = create_parser()
    rows = [(f"[`{name}`](#nitrohb-{name})", said) for name, said in summaries(parser).items()]
    return f"{_table(('command', ''), rows)}\n\n```text\n{parser.epilog}```"


def _events() -> str:
    return "\n\n".join(_event(event) for event in get_args(Event))


def _event(event: type[Any]) -> str:
    schema: Json = schema_of(event)
    rows = [
        (f"`{name}`", _type(form), form["description"])
        for name, form in schema["properties"].items()
        if name not in _COMMON
    ]
    fields = _table(("field", "type", "meaning"), rows) if rows else "No fields of its own."
    sample = event(
        address=parse_address("unix:enclave.sock" if event is Lost else "vsock::9000"),
        time=datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC),
        **{name: value for name, value in _SAMPLES.items() if name in schema["properties"]},
        **({"byte": 0x0A} if event is Rejected else {}),
    )
    shown = f"```text\n{to_text(sample)}\n```\n\n```json\n{to_json(sample)}\n```"
    return f"## `{event.name}`\n\n{summary(event)}\n\n{fields}\n\n{shown}"


def _type(form: Json) -> str:
    if "enum" in form:
        return ", ".join(f"`{value}`" for value in form["enum"])
    kinds: str | list[str] = form["type"]
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def _metrics() -> str:
    families = text_string_to_metric_families(_scrape())
    rows: list[tuple[str, ...]] = []
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = f"{family.name}_total" if family.type == "counter" else family.name
        order = ", ".join(f"`{label}`" for label in sorted(labels))
        rows.append((f"`{name}`", family.type, order, family.documentation))
    return _table(("metric", "type", "labels", "what it counts"), rows)


def _scrape() -> str:
    """What a real server says of itself after a heartbeat."""
    with tempfile.TemporaryDirectory(prefix="nitrohb-") as here:
        enclave, api = f"{here}/enclave.sock", f"{here}/api.sock"
        with _running("serve", "--keep", "--quiet", f"-lunix:{enclave}", f"--api=unix:{api}"):
            _connect(enclave).close()
            with _connect(api) as sock:
                connection = http.client.HTTPConnection("localhost")
                connection.sock = sock
                connection.request("GET", "/metrics")
                with connection.getresponse() as response:
                    return response.read().decode()


@contextmanager
def _running(*args: str) -> Generator[None]:
    with subprocess.Popen([sys.executable, "-m", "nitrohb", *args]) as process:
        try:
            yield
        finally:
            process.terminate()


def _connect(path: str) -> socket.socket:
    until = time.monotonic() + _PATIENCE
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(_PATIENCE)
    while True:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            sock.connect(path)
            return sock
        if time.monotonic() > until:
            sock.close()
            raise TimeoutError(f"nobody listens on {path}")
        time.sleep(0.01)


def _errors() -> str:
    listen = [
        listen_error(parse_address(text), number) for text, *some in _LISTEN for number in some
    ]
    connect = [
        connect_error(parse_address(text), number) for text, *some in _CONNECT for number in some
    ]
    header = ("address", "why", "what helps")
    of = [
        _table(header, [(f"`{e.address}`", e.reason, e.remedy) for e in errors])
        for errors in (listen, connect)
    ]
    return f"## To listen\n\n{of[0]}\n\n## To connect\n\n{of[1]}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_row(cells) for cells in (header, ["---"] * len(header), *rows))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


_TABLES: Final[dict[str, Callable[[], str]]] = {
    "commands": _commands,
    "exit-codes": _exit_codes,
    "events": _events,
    "metrics": _metrics,
    "errors": _errors,
}
