# SPDX-License-Identifier: Apache-2.0
"""Draws the results as an SVG: each peer compared with the C epoll server.

It uses no plotting library. The same results give the same bytes.
"""

import math
from collections.abc import Iterator
from html import escape

from .contestants import PEERS, C
from .results import Ratio, Results

__all__ = ["draw"]

_PANELS = (
    ("p50_us_1", "Latency (p50), the byte at once: less is better"),
    ("p50_us_late", "Latency (p50), the byte 200 µs after the connection: less is better"),
    ("rate_16", "Heartbeats per second, 16 at a time: more is better"),
)
_WIDTH, _LEFT, _RIGHT = 860, 230, 150  # px; the bars lie between the margins
_ROW, _BAR, _HEAD, _GAP = 24, 14, 44, 22  # px

_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 14px; }
.tick { font-size: 11px; fill: #6e7781; }
.grid { stroke: #d0d7de; } .one { stroke: #57606a; stroke-dasharray: 4 3; }
.bar { fill: #8c959f; } .ours { fill: #0969da; } .spread { stroke: #24292f; stroke-width: 1.5; }
.back { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .tick { fill: #8d96a0; } .back { fill: #0d1117; }
.grid { stroke: #30363d; } .one { stroke: #8d96a0; } .bar { fill: #6e7681; }
.ours { fill: #4493f8; } .spread { stroke: #e6edf3; }
}"""


def draw(results: Results) -> str:
    """Return the chart, as the text of an SVG file."""
    parts: list[str] = []
    top = 10
    for name, title in _PANELS:
        rows = list(_rows(results, name))
        if rows:
            parts += _panel(title, rows, top)
            top += _HEAD + _ROW * len(rows) + _GAP
    note = "Bars: the median ratio to the C epoll server (1 ×). Whiskers: the least and the most"
    parts.append(_text(10, top + 4, f"{note} of all rounds. Logarithmic scale.", "tick"))
    size = f'width="{_WIDTH}" height="{top + 16}" viewBox="0 0 {_WIDTH} {top + 16}"'
    head = [
        "<!-- SPDX-License-Identifier: Apache-2.0 -->",
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        "<title>Heartbeat servers beside a C epoll server</title>",
        f"<style>{_STYLE}</style>",
        '<rect class="back" width="100%" height="100%"/>',
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


Row = tuple[str, str, Ratio]  # key, label, ratio


def _rows(results: Results, name: str) -> Iterator[Row]:
    for peer in PEERS:
        ratio = results.beside_c(peer.key, name)
        if ratio is not None and peer is not C:
            yield peer.key, peer.label, ratio


class _Scale:
    """A logarithmic scale, wide enough for all rows and for 1."""

    def __init__(self, rows: list[Row]) -> None:
        least = min(1.0, *(ratio.low for _, _, ratio in rows))
        most = max(1.0, *(ratio.high for _, _, ratio in rows))
        self.low = math.log10(least) - 0.1
        self.high = math.log10(most) + 0.05

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def ticks(self) -> Iterator[float]:
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for step in (1, 2, 5):
                if self.low <= math.log10(step * 10.0**power) <= self.high:
                    yield step * 10.0**power


def _panel(title: str, rows: list[Row], top: int) -> Iterator[str]:
    scale = _Scale(rows)
    first, last = top + _HEAD, top + _HEAD + _ROW * len(rows)
    yield _text(10, top + 14, title, "title")
    for tick in scale.ticks():
        x = scale.x(tick)
        kind = "one" if tick == 1 else "grid"
        yield _line(x, first - 4, x, last, kind)
        yield _text(x, first - 8, f"{tick:g}×", "tick", "middle")
    for number, (key, label, ratio) in enumerate(rows):
        yield from _bar(scale, first + _ROW * number, key, label, ratio)


def _bar(scale: _Scale, top: int, key: str, label: str, ratio: Ratio) -> Iterator[str]:
    middle = top + _ROW // 2
    start, end = sorted((scale.x(1), scale.x(ratio.median)))
    kind = "bar ours" if key.startswith("nitrohb") else "bar"
    yield _text(_LEFT - 10, middle + 4, label, "label", "end")
    yield (
        f'<rect class="{kind}" x="{start}" y="{middle - _BAR // 2}"'
        f' width="{max(end - start, 1):.1f}" height="{_BAR}"/>'
    )
    yield _line(scale.x(ratio.low), middle, scale.x(ratio.high), middle, "spread")
    yield _text(_WIDTH - _RIGHT + 10, middle + 4, str(ratio), "value")


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
