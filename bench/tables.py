# SPDX-License-Identifier: Apache-2.0
"""The results for people: aligned text for a terminal, Markdown for the documentation."""

import os
from collections.abc import Iterable, Sequence

from .contestants import NITROHB, PEERS
from .delays import ALONE, LABELS
from .measure import PASS
from .results import Goal, Results, check_goals

__all__ = ["text_report", "write_section"]

Rows = list[list[str]]  # the first is the head

_USUAL, _WORST = 3, 4  # rows about the interface on a page: without an attack, and with one


def text_report(results: Results) -> str:
    """Everything, for a terminal."""
    settings = results.settings
    if results.about_api:
        tables = {"Heartbeats, and clients of the interface": _delays(results, LABELS)}
        how = (
            f"Medians over {settings['rounds']:g} rounds of {settings['seconds']:g} s for each kind"
            " of clients; beside no interface, paired by round: median (least–most). "
        )
    else:
        tables = {
            "Latency and throughput": _speed(results),
            "Beside C, paired by round: median (least–most)": _beside_c(results),
            "Memory, start and end": _footprint(results),
            "Goals": _goals(results),
            "Long run": _long_run(results),
        }
        how = f"Medians over {settings['rounds']:g} rounds of {settings['seconds']:g} s per load. "
    lines = [line for title, rows in tables.items() for line in _as_text(title, rows)]
    return "\n".join([*lines, how + _conditions(results), _machine(results), ""])


def write_section(path: str, results: Results, plot: str | None) -> None:
    """Put what a reader decides by into a Markdown file, between two markers.

    Args:
        path: The file. A new one gets only the section.
        results: What to show.
        plot: The address of the plot, as the file should have it, if there is one.

    Raises:
        ValueError: The file has no markers.
    """
    name = f"bench{results.kind}"
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, after = "", "\n"
    if os.path.exists(path):
        with open(path) as file:
            text = file.read()
        if begin not in text or end not in text:
            raise ValueError(f"{path}: has no {begin} and {end}")
        before, after = text.partition(begin)[0], text.partition(end)[2]
    image = [f"![Ratios to the C epoll server]({plot})", ""] if plot else []
    lines = [begin, *image, *_section(results), end]
    with open(path, "w") as file:
        file.write(before + "\n".join(lines) + after)


def _section(results: Results) -> list[str]:
    if results.about_api:
        tables = [_delays(results, _usual_and_worst(results))]
    else:
        tables = [_goals(results), _summary(results)]
    how = (
        f"Each figure is the median of {results.settings['rounds']:g} rounds. A ratio compares two"
        " figures of one round; its least and its greatest are in parentheses. "
    )
    lines = [line for rows in tables for line in _as_markdown(rows)]
    return [*lines, f"{how}{_conditions(results)} {_machine(results)}"]


def _conditions(results: Results) -> str:
    if results.about_api:
        return _how_placed(results)
    return (
        f"{_how_placed(results)} Late: the byte comes 200 µs after the connection."
        f" Idle: with {results.settings['idle']:g} silent connections held open. @16: 16 at a time."
        " Socat never closes first, so its clients do."
    )


def _machine(results: Results) -> str:
    return "; ".join(f"{name} {value}" for name, value in results.machine.items()) + "."


def _delays(results: Results, keys: Iterable[str]) -> Rows:
    rows = [["", "p50 µs", "p99 µs", "max µs", "p50 ×", "p99 ×", "responses/s", "CPU %", "PSS MiB"]]
    for key in keys:
        medians = results.medians(key)
        times = ("p50_us", "p99_us", "max_us")
        ratios = [results.ratio((key, name), (ALONE, name)) for name in times[:2]]
        rows.append(
            [
                LABELS[key],
                *(_number(medians[name]) for name in times),
                *(str(ratio) if ratio else "–" for ratio in ratios),
                *(_number(medians.get(name)) for name in ("responses", "cpu_percent", "pss_mib")),
            ]
        )
    return rows


def _usual_and_worst(results: Results) -> list[str]:
    def delay(key: str) -> float:
        ratio = results.ratio((key, "p99_us"), (ALONE, "p99_us"))
        return ratio.median if ratio else 0

    keys = [*LABELS]
    worst = sorted(keys[_USUAL:], key=delay, reverse=True)[:_WORST]
    return keys[:_USUAL] + worst


def _summary(results: Results) -> Rows:
    head = ["beside C", "p50", "p50 late", "beats/s @16"]
    head += ["RSS MiB", "KiB/pending", "listening ms", "first echo ms"]
    figures = _medians(results, ("rss_mib", "pending_kib", "ready_ms", "echo_ms"))
    ratios = _ratios(results, ("p50_us_1", "p50_us_late", "rate_16"))
    return [head, *(row + more[1:] for row, more in zip(ratios, figures, strict=True))]


def _speed(results: Results) -> Rows:
    head = ["", "p50 µs", "p99 µs", "beats/s", "p50 µs @16", "p99 µs @16", "beats/s @16"]
    head += ["p50 µs late", "p99 µs late", "p50 µs idle", "CPU µs/beat @16"]
    names = ["p50_us_1", "p99_us_1", "rate_1", "p50_us_16", "p99_us_16", "rate_16"]
    names += ["p50_us_late", "p99_us_late", "p50_us_idle", "cpu_us_16"]
    return [head, *_medians(results, names)]


def _footprint(results: Results) -> Rows:
    head = ["", "RSS MiB", "PSS MiB", "KiB/pending", "listening ms", "first echo ms", "exit ms"]
    names = ("rss_mib", "pss_mib", "pending_kib", "ready_ms", "echo_ms", "exit_ms")
    bare = [PASS, "", "", "", _number(results.medians(PASS)["ready_ms"]), "", ""]
    return [head, *_medians(results, names), bare]


def _beside_c(results: Results) -> Rows:
    head = ["", "p50", "beats/s", "beats/s @16", "p50 late", "p50 idle"]
    return [
        head,
        *_ratios(results, ("p50_us_1", "rate_1", "rate_16", "p50_us_late", "p50_us_idle")),
    ]


def _long_run(results: Results) -> Rows:
    run = results.long_run
    if not run:
        return []
    return [
        [
            "heartbeats",
            "errors",
            "beats/s",
            "RSS KiB before",
            "after",
            "descriptors before",
            "after",
        ],
        [
            f"{run['count']:.0f}",
            f"{run['errors']:.0f}",
            _number(run["rate"]),
            *(f"{run[name]:.0f}" for name in ("rss_kib_before", "rss_kib")),
            *(f"{run[name]:.0f}" for name in ("files_before", "files")),
        ],
    ]


def _how_placed(results: Results) -> str:
    where = "AF_VSOCK over the loopback inside User Mode Linux. " if results.over_vsock else ""
    if results.settings["cores"] > 1:
        return f"{where}Server and client are pinned to different cores."
    return f"{where}Server and client share the only core, so a late client sleeps."


def _goals(results: Results) -> Rows:
    if results.over_vsock:
        return []
    return [["goal", "figure", ""], *map(_goal, check_goals(results))]


def _goal(goal: Goal) -> list[str]:
    verdict = {True: "met", False: "missed", None: "not measured"}
    return [goal.text, goal.spread, verdict[goal.met]]


def _medians(results: Results, names: Sequence[str]) -> Rows:
    rows: Rows = []
    for key, label in _present(results):
        medians = results.medians(key)
        rows.append([label, *(_number(medians.get(name)) for name in names)])
    return rows


def _ratios(results: Results, names: Sequence[str]) -> Rows:
    rows: Rows = []
    for key, label in _present(results):
        ratios = [results.beside_c(key, name) for name in names]
        rows.append([label, *(str(ratio) if ratio else "–" for ratio in ratios)])
    return rows


def _present(results: Results) -> list[tuple[str, str]]:
    return [(peer.key, peer.label) for peer in PEERS if peer.key in results.rounds[0]]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _as_text(title: str, rows: Rows) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [title, ""]
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return [*lines, ""]


def _as_markdown(rows: Rows) -> list[str]:
    if not rows:
        return []
    head, *body = [[_emphasised(cell) for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [*(f"| {' | '.join(row)} |" for row in (head, rule, *body)), ""]


def _emphasised(cell: str) -> str:
    return f"**{cell}**" if cell == NITROHB.label else cell
