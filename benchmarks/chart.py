"""Draw line charts as SVG: panels side by side with a logarithmic x axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEGEND = 300, 220, 170
LEFT, TOP, BELOW, GAP = 64, 44, 52, 24
COLORS = "#0072b2 #d55e00 #009e73 #cc79a7 #56b4e9 #e69f00 #000000 #8c6d31 #7f7f7f #ad494a".split()
DASH = ' stroke-dasharray="6 4"'
STEPS = 4

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        title: Title of the chart.
        unit: Unit of the y axis, which starts at 0.
        lines: Points by name of the line; x must be positive.
        dashed_suffix: Lines whose name ends with it are dashed.
    """

    title: str
    unit: str
    lines: Mapping[str, Points]
    dashed_suffix: str = "\0"


def draw(panels: Sequence[Panel], x_title: str) -> str:
    """Return the panels as SVG; panels without points are omitted."""
    drawn = [panel for panel in panels if any(panel.lines.values())]
    step = LEFT + WIDTH + LEGEND + GAP
    width, height = step * len(drawn), TOP + HEIGHT + BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, panel in enumerate(drawn):
        parts.append(f'<g transform="translate({number * step + LEFT} {TOP})">')
        parts += [*_panel(panel, x_title), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, x_title: str) -> list[str]:
    all_points = [point for points in panel.lines.values() for point in points]
    low, high = min(x for x, _ in all_points), max(x for x, _ in all_points)
    top = _round_up(max(y for _, y in all_points))
    span = math.log10(high / low) or 1.0

    def x_of(x: float) -> float:
        return WIDTH * math.log10(x / low) / span

    def y_of(y: float) -> float:
        return HEIGHT * (1 - y / top)

    parts = [_text(0, -22, panel.title, "start", bold=True), _text(0, -8, panel.unit, "start")]
    for tick in range(STEPS + 1):
        y = top * tick / STEPS
        parts.append(
            f'<line x1="0" x2="{WIDTH}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}" stroke="#ddd"/>'
        )
        parts.append(_text(-6, y_of(y) + 4, f"{y:g}", "end"))
    for x in sorted({x for x, _ in all_points}):
        parts.append(
            f'<line x1="{x_of(x):.1f}" x2="{x_of(x):.1f}" y1="{HEIGHT}" y2="{HEIGHT + 4}" '
            'stroke="#555"/>'
        )
        parts.append(_text(x_of(x), HEIGHT + 17, f"{x:,.0f}", "middle"))
    parts.append(_text(WIDTH / 2, HEIGHT + 36, x_title, "middle"))
    for number, (name, points) in enumerate(panel.lines.items()):
        color = COLORS[number % len(COLORS)]
        dash = DASH if name.endswith(panel.dashed_suffix) else ""
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'
        )
        parts += [
            f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" fill="{color}"/>'
            for x, y in points
        ]
        y = 8 + 17 * number
        parts.append(
            f'<line x1="{WIDTH + 14}" x2="{WIDTH + 38}" y1="{y}" y2="{y}" stroke="{color}" '
            f'stroke-width="2"{dash}/>'
        )
        parts.append(_text(WIDTH + 44, y + 4, name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _round_up(value: float) -> float:
    """Return the next axis maximum that four ticks divide into round numbers."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * f for f in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if unit * f >= value)
