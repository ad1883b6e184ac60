# SPDX-License-Identifier: Apache-2.0
"""The parts of pages in docs/ that are made from the code.

Each stands between two comments: ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

import argparse
import errno
import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from prometheus_client.parser import text_string_to_metric_families

from deploy.packaging.event_schema import create_schema, schema_of, summary
from deploy.packaging.manpage import exit_code_meanings, subcommands, summaries
from deploy.packaging.python_api import anchors, describe
from nitrohb import (
    Connected,
    Event,
    Listening,
    Lost,
    Rejected,
    RejectReason,
    UnixPeer,
    VsockAddress,
    parse_address,
)
from nitrohb.api.metrics import Metrics
from nitrohb.api.schema import create_document
from nitrohb.cli.output import LEVELS
from nitrohb.cli.parser import build_parser
from nitrohb.cli.report import to_json, to_text
from nitrohb.remedies import NO_AF_VSOCK, connect_error, listen_error

__all__ = ["fill", "pages"]

_GENERATED: Final = re.compile(
    r"^(<!-- generated: ([^\n]+) -->\n).*?^(<!-- end -->)$", re.MULTILINE | re.DOTALL
)

_COMMON: Final = ("event", "time", "address", "cid", "level")
_OF_CONNECTIONS: Final = ("peer", *UnixPeer._fields)

_TIME: Final = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)

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
    ("unix:/run/vm4/hb.sock", errno.ENOENT, errno.EACCES, errno.EADDRINUSE, errno.EEXIST),
    ("fd:3", errno.EBADF, errno.ENOTSOCK, errno.EINVAL),
)
_CONNECT: Final = (
    ("vsock:3:9000", errno.ECONNRESET, errno.ENODEV, errno.ETIMEDOUT),
    ("unix:/run/hb.sock", errno.ENOENT, errno.ECONNREFUSED, errno.EACCES),
)


def pages(docs: Path) -> dict[Path, str]:
    """What each page should contain, and the JSON Schema of the events."""
    schema = json.dumps(create_schema(), indent=2) + "\n"
    texts = {path: fill(path.read_text("utf-8")) for path in sorted(docs.rglob("*.md"))}
    return texts | {docs / "reference" / "events.schema.json": schema}


def fill(page: str) -> str:
    """A page with its generated parts."""
    lists: list[str] = re.findall(r"^<!-- generated: python (.*) -->$", page, re.MULTILINE)
    known = anchors([name for names in lists for name in names.split()])

    def replace(found: re.Match[str]) -> str:
        name, _, rest = found[2].partition(" ")
        words = rest.split()
        text = describe(words, known) if name == "python" else _SECTIONS[name](*words)
        return f"{found[1]}\n{text}\n\n{found[3]}"

    return _GENERATED.sub(replace, page)


class _Help(argparse.RawDescriptionHelpFormatter):
    """The same help on every Python: before 3.13, "-l, --listen ADDR" has ADDR twice."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=80)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def _commands() -> str:
    parser = build_parser()
    said = summaries(parser).items()
    rows = [(f"[`nitrohb {name}`](#nitrohb-{name})", text) for name, text in said]
    help_ = (f"## `{it.prog}`\n\n{_help(it)}" for it in subcommands(parser).values())
    return "\n\n".join([_table(("command", "what it does"), rows), *help_])


def _help(parser: argparse.ArgumentParser) -> str:
    vars(parser).update(formatter_class=_Help, color=False)  # Python 3.14 has colors
    return f"```text\n{argparse.ArgumentParser.format_help(parser).strip()}\n```"


def _exit_codes() -> str:
    said = sorted(exit_code_meanings().items())
    rows = [(f"`{code}`", " ".join(text.split()).replace("``", "`")) for code, text in said]
    return _table(("code", "meaning"), rows)


def _event_levels() -> str:
    rows: list[tuple[str, ...]] = []
    for event in get_args(Event):
        sample = json.loads(to_json(_sample(event)))
        fields = ", ".join(f"`{name}`" for name in sample if name not in _COMMON)
        level = sample["level"]
        rows.append((f"[`{event.name}`](#{event.name})", fields, level, str(LEVELS[level])))
    return _table(("event", "more fields", "level", "priority in the journal"), rows)


def _events() -> str:
    return "\n\n".join(_event(event) for event in get_args(Event))


def _fields(event: type[Any], names: Iterable[str]) -> str:
    forms = schema_of(event)["properties"]
    rows = [(f"`{it}`", _type(forms[it]), forms[it]["description"]) for it in names]
    return _table(("field", "type", "meaning"), rows)


def _event(event: type[Any]) -> str:
    names = [it for it in schema_of(event)["properties"] if it not in _COMMON + _OF_CONNECTIONS]
    fields = [_fields(event, names)] if names else []
    sample = _sample(event)
    shown = f"```text\n{to_text(sample)}\n```\n\n```json\n{to_json(sample)}\n```"
    return "\n\n".join([f"### `{event.name}`", summary(event), *fields, shown])


def _sample(event: type[Any]) -> Event:
    known = schema_of(event)["properties"]
    sample: Event = event(
        address=parse_address("unix:enclave.sock" if event is Lost else "vsock::9000"),
        time=_TIME,
        **{name: value for name, value in _SAMPLES.items() if name in known},
        **({"byte": 0x0A} if event is Rejected else {}),
    )
    return sample


def _type(form: dict[str, Any]) -> str:
    if "enum" in form:
        return ", ".join(f"`{value}`" for value in form["enum"])
    kinds: str | list[str] = form.get("type", "string")
    return kinds if isinstance(kinds, str) else " or ".join(kinds)


def _metrics() -> str:
    """The metrics of a server that listens, but not the library's own of the process."""
    metrics = Metrics()
    metrics.count(Listening(address=parse_address("vsock::9000"), time=_TIME))
    rows: list[tuple[str, ...]] = []
    for family in text_string_to_metric_families(metrics.write().decode()):
        if family.name.startswith("nitrohb_"):
            labels = sorted({label for it in family.samples for label in it.labels} - {"le"})
            name = f"{family.name}_total" if family.type == "counter" else family.name
            named = ", ".join(f"`{label}`" for label in labels)
            rows.append((f"`{name}`", family.type, named, family.documentation))
    return _table(("metric", "type", "labels", "meaning"), rows)


def _requests() -> str:
    """Every request, in the words of the OpenAPI document."""
    rows = [
        (f"`{method.upper()} {path}`", f"{it['summary']} {it.get('description', '')}".strip())
        for path, operations in create_document([])["paths"].items()
        for method, it in operations.items()
        if method != "parameters"
    ]
    return _table(("request", "what it does"), rows)


def _request(method: str, path: str) -> str:
    """The fields of a request, and the statuses that it alone can get."""
    document = create_document([parse_address("vsock::9000")])
    operation = document["paths"][path][method.lower()]
    tables = [_statuses(operation["responses"])]
    if body := operation.get("requestBody"):
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        fields = document["components"]["schemas"][name]["properties"].items()
        rows = [(f"`{field}`", form["description"]) for field, form in fields]
        tables.insert(0, _table(("field", "meaning"), rows))
    return "\n\n".join(tables)


def _any_request() -> str:
    """The statuses that are the same for all requests."""
    document = create_document([])
    answers = document["paths"]["/rearm"]["post"]["responses"].items()
    names = {code: it["$ref"].rpartition("/")[2] for code, it in answers if "$ref" in it}
    shared = document["components"]["responses"]
    return _statuses({code: shared[name] for code, name in names.items()})


def _statuses(answers: dict[str, Any]) -> str:
    rows = [(code, it["description"]) for code, it in answers.items() if "$ref" not in it]
    return _table(("status", "meaning"), rows)


def _errors() -> str:
    def table(of: Callable[..., Any], known: Sequence[tuple[Any, ...]]) -> str:
        errors = [of(parse_address(text), number) for text, *some in known for number in some]
        rows = [(f"`{it.address}`", it.reason, it.remedy) for it in errors]
        return _table(("address", "reason", "remedy"), rows)

    return (
        f"## It cannot listen\n\n{table(listen_error, _LISTEN)}\n\n"
        f"## It cannot connect\n\n{table(connect_error, _CONNECT)}"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_row(cells) for cells in (header, ["---"] * len(header), *rows))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


_SECTIONS: Final[dict[str, Callable[..., str]]] = {
    "commands": _commands,
    "exit-codes": _exit_codes,
    "event-levels": _event_levels,
    "fields": partial(_fields, Connected, _COMMON),
    "connection-fields": partial(_fields, Connected, _OF_CONNECTIONS),
    "events": _events,
    "metrics": _metrics,
    "requests": _requests,
    "request": _request,
    "any-request": _any_request,
    "errors": _errors,
}
