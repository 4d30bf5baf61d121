"""Plots as SVG: rows of bars or dots on one axis, readable on light and on dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, RIGHT, ROW, TOP = 800, 190, 104, 24, 66

STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.back { fill: #ffffff }
.ours { font-weight: 700 }
.soft { fill: #59636e }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.between { stroke: #9aa4ae; stroke-width: 2 }
.spread { stroke: #1f2328; stroke-width: 1.5 }
.their { fill: #8c9aa8 }
.our { fill: #0969da }
.s0 { fill: #0969da } .s1 { fill: #bc4c00 } .s2 { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.back { fill: #0d1117 }
.soft { fill: #9198a1 }
.grid { stroke: #3d444d }
.between { stroke: #656c76 }
.spread { stroke: #f0f6fc }
.their { fill: #768390 }
.our { fill: #4493f8 }
.s0 { fill: #4493f8 } .s1 { fill: #f0883e } .s2 { fill: #3fb950 }
}
"""


@dataclass(frozen=True)
class Line:
    """One peer: the runs of each series (none: it has no such figure, and `said` is why)."""

    name: str
    ours: bool
    runs: tuple[tuple[float, ...], ...]
    said: str = ""


def median(runs: Sequence[float]) -> float:
    ordered = sorted(runs)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def short(value: float) -> str:
    """A number as a person reads it: three figures, thousands with commas."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.1g}"


def draw(title: str, axis: str, lines: Sequence[Line], series: Sequence[str] = ("",)) -> str:
    """A plot with one row a line, on a logarithmic axis; `series` names the dots of a row."""
    values = [value for line in lines for runs in line.runs for value in runs if value > 0]
    low, high = _ends(values)
    bottom = TOP + ROW * len(lines)
    height = bottom + 46
    head = '<svg xmlns="http://www.w3.org/2000/svg" role="img"'
    parts = [
        f'{head} viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        *_legend(series),
        *_axis(axis, low, high, bottom),
    ]
    for index, line in enumerate(lines):
        parts += _row(line, TOP + ROW * index + ROW / 2, low, high, dots=len(series) > 1)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ends(values: Sequence[float]) -> tuple[int, int]:
    """The axis in powers of ten."""
    if not values:
        return 0, 1
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _x(value: float, low: int, high: int) -> float:
    share = (math.log10(max(value, 10.0**low)) - low) / (high - low)
    return LABEL + share * (WIDTH - LABEL - RIGHT)


def _legend(series: Sequence[str]) -> list[str]:
    parts, x = [], float(LABEL)
    for index, name in enumerate(series if len(series) > 1 else ()):
        parts.append(f'<circle class="s{index}" cx="{x + 5}" cy="46" r="5"/>')
        parts.append(f'<text x="{x + 15}" y="50">{escape(name)}</text>')
        x += 38 + 7 * len(name)
    return parts


def _axis(axis: str, low: int, high: int, bottom: int) -> list[str]:
    parts = []
    for power in range(low, high + 1):
        x = _x(10.0**power, low, high)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP - 6}V{bottom + 2}"/>')
        parts.append(
            f'<text class="soft" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">'
            f"{short(10.0**power)}</text>"
        )
    middle = (LABEL + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="soft" x="{middle}" y="{bottom + 36}" text-anchor="middle">'
        f"{escape(axis)} (logarithmic)</text>"
    )
    return parts


def _row(line: Line, y: float, low: int, high: int, *, dots: bool) -> list[str]:
    name = f'<text class="{"ours" if line.ours else ""}" x="{LABEL - 10}" y="{y + 4}"'
    parts = [f'{name} text-anchor="end">{escape(line.name)}</text>']
    medians = [median(runs) for runs in line.runs if runs]
    if not medians:
        said = f"— {line.said}" if line.said else "—"
        said = said if len(said) < 76 else said[:74] + "…"
        parts.append(f'<text class="soft" x="{LABEL + 6}" y="{y + 4}">{escape(said)}</text>')
        return parts
    if dots:
        ends = [_x(value, low, high) for value in medians]
        parts.append(f'<path class="between" d="M{min(ends):.1f} {y}H{max(ends):.1f}"/>')
        for index, runs in enumerate(line.runs):
            if runs:
                x = _x(median(runs), low, high)
                parts.append(f'<circle class="s{index}" cx="{x:.1f}" cy="{y}" r="5"/>')
        right = max(ends)
    else:
        (runs,) = line.runs
        right = _x(medians[0], low, high)
        kind = "our" if line.ours else "their"
        parts.append(
            f'<rect class="{kind}" x="{LABEL}" y="{y - 8}" height="16" '
            f'width="{max(right - LABEL, 1):.1f}" rx="2"/>'
        )
        if len(runs) > 1:
            least, right = _x(min(runs), low, high), _x(max(runs), low, high)
            parts.append(f'<path class="spread" d="M{least:.1f} {y}H{right:.1f}"/>')
    text = " · ".join(short(value) for value in medians)
    parts.append(f'<text x="{right + 9:.1f}" y="{y + 4}">{text}</text>')
    return parts
