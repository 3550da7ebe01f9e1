"""Charts as inline SVG. Colours are classes of the page's style sheet; all text is escaped by Markup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from pipeline.report.formats import name_text, number_text, percent_text
from pipeline.report.statistics import BINS, Drift, Histogram, RiskCurve

_EMPTY: Final = Markup("")


def _join(parts: Sequence[Markup]) -> Markup:
    return _EMPTY.join(parts)


def _svg(width: float, height: float, label: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(f"{width:g}", f"{height:g}", label, _join(parts))


def _rect(css: str, x: float, y: float, width: float, height: float, title: str = "") -> Markup:
    tip = Markup("<title>{}</title>").format(title) if title else _EMPTY
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(
        css, f"{x:.2f}", f"{y:.2f}", f"{max(width, 0):.2f}", f"{max(height, 0):.2f}", tip
    )


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        css, f"{x1:.2f}", f"{y1:.2f}", f"{x2:.2f}", f"{y2:.2f}"
    )


def _text(css: str, x: float, y: float, text: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(
        css, f"{x:.2f}", f"{y:.2f}", text
    )


def bar(parts: Sequence[tuple[str, float]], total: float) -> Markup:
    """Return a stacked horizontal bar, decoration of a number in the same table row.

    Args:
        parts: class and size of each part.
        total: size of a bar of full width.
    """
    x, drawn = 0.0, []
    for css, size in parts:
        width = 100 * size / total if total else 0
        drawn.append(_rect(css, x, 0, width, 8))
        x += width
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="bar-track" width="100" height="8"/>{}</svg>'
    ).format(_join(drawn))


def columns_by_day(days: Sequence[tuple[str, Sequence[tuple[str, int]]]], label: str) -> Markup:
    """Return stacked columns, one a day.

    Args:
        days: name of each day, and class and number of images of each part, from the bottom up.
        label: text alternative.
    """
    width, height, left, bottom, top = 720.0, 190.0, 52.0, 24.0, 8.0
    totals = [sum(number for _, number in parts) for _, parts in days]
    ceiling = _nice_ceiling(max(totals, default=0))
    scale = (height - bottom - top) / ceiling
    parts = []
    for step in (0, 0.5, 1):
        y = height - bottom - step * ceiling * scale
        parts.append(_line("grid", left, y, width, y))
        if ceiling * step == int(ceiling * step):
            parts.append(_text("axis end", left - 8, y + 4, number_text(int(ceiling * step))))
    pitch = (width - left) / max(len(days), 1)
    column = min(pitch * 0.72, 44)
    every = math.ceil(len(days) / 8) if days else 1
    for index, (name, stacked) in enumerate(days):
        x, y = left + index * pitch + (pitch - column) / 2, height - bottom
        for css, number in stacked:
            tip = f"{name}: {number_text(number)} {name_text(css.removeprefix('fill-'))}"
            y -= number * scale
            if number:
                parts.append(_rect(css, x, y, column, number * scale, tip))
        if index % every == 0:
            parts.append(_text("axis middle", x + column / 2, height - 6, name))
    return _svg(width, height, label, parts)


def confidence_histogram(histogram: Histogram) -> Markup:
    """Return the confidences of one label as columns, with the threshold.

    Heights are logarithmic, so that the few low confidences can be seen.
    """
    width, height, bottom, top = 300.0, 128.0, 20.0, 18.0
    base = height - bottom
    highest = max(a + b for a, b in zip(histogram.routed, histogram.review, strict=True))
    scale = (base - top) / math.log1p(highest) if highest else 0
    pitch = width / BINS
    lowest = histogram.lowest
    parts = [_line("grid", 0, base, width, base)]
    for index, (routed, review) in enumerate(zip(histogram.routed, histogram.review, strict=True)):
        if not routed + review:
            continue
        total = math.log1p(routed + review) * scale
        lower = total * review / (routed + review)
        low = lowest + index * (1 - lowest) / BINS
        tip = (
            f"{percent_text(low)} to {percent_text(low + (1 - lowest) / BINS)}: "
            f"{number_text(routed)} routed, {number_text(review)} in review"
        )
        x = index * pitch + 0.5
        parts.append(_rect("fill-review", x, base - lower, pitch - 1, lower, tip))
        parts.append(_rect("fill-routed", x, base - total, pitch - 1, total - lower, tip))
    named = "threshold unknown"
    if histogram.threshold is not None:
        x = width * (histogram.threshold - lowest) / (1 - lowest)
        x = min(max(x, 0.0), width)
        named = f"threshold {percent_text(histogram.threshold)}"
        parts.append(_line("threshold", x, top - 4, x, base))
        side = "end" if x > width / 2 else "start"
        parts.append(_text(f"axis {side}", x + (-5 if side == "end" else 5), 12, named))
    for share, side in ((lowest, "start"), (0.6, "middle"), (1.0, "end")):
        x = width * (share - lowest) / (1 - lowest)
        parts.append(_text(f"axis {side}", x, height - 5, f"{share:.0%}"))
    label = (
        f"Confidences of {histogram.label}: {number_text(sum(histogram.routed))} routed, "
        f"{number_text(sum(histogram.review))} in review; {named}."
    )
    return _svg(width, height, label, parts)


def risk_coverage(curves: Sequence[tuple[str, str, RiskCurve]], coverage: float | None) -> Markup:
    """Return error against coverage.

    Args:
        curves: name, kind ("expected" or "observed") and values of each curve.
        coverage: the share that is routed now, marked in the chart; None for none.
    """
    width, height, left, bottom, top = 460.0, 250.0, 52.0, 40.0, 12.0
    highest = max((max(curve.risk) for _, _, curve in curves), default=0)
    ceiling = _nice_ceiling(max(highest, 0.005) * 1000) / 1000
    base, across = height - bottom, width - left - 12

    def point(share: float, risk: float) -> tuple[float, float]:
        return left + share * across, base - risk / ceiling * (base - top)

    parts = []
    for step in range(5):
        risk = ceiling * step / 4
        _, y = point(0, risk)
        parts.append(_line("grid", left, y, left + across, y))
        parts.append(_text("axis end", left - 8, y + 4, f"{100 * risk:.3g} %"))
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_text("axis middle", point(share, 0)[0], base + 16, f"{share:.0%}"))
    parts.append(
        _text("axis middle", left + across / 2, height - 5, "coverage: share of images routed")
    )
    if coverage is not None:
        x, _ = point(coverage, 0)
        parts.append(_line("threshold", x, top, x, base))
        parts.append(_text("axis end", x - 6, top + 10, f"now {percent_text(coverage)}"))
    for name, css, curve in curves:
        places = (point(c, r) for c, r in zip(curve.coverage, curve.risk, strict=True))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            Markup(
                '<polyline class="curve curve-{}" points="{}"><title>{}</title></polyline>'
            ).format(css, path, name)
        )
    shown = "; ".join(
        f"{name}: error {percent_text(curve.at(0.9))} at a coverage of 90 %, "
        f"{percent_text(curve.at(1))} at 100 %"
        for name, _, curve in curves
    )
    return _svg(width, height, f"Error against coverage. {shown}.", parts)


def compared_shares(drift: Drift) -> Markup:
    """Return the shares of both samples by bin as pairs of columns."""
    width, height, bottom = 300.0, 96.0, 6.0
    base = height - bottom
    highest = max((*drift.baseline, *drift.current))
    pitch = width / len(drift.bins)
    column = min(pitch * 0.36, 18)
    parts = [_line("grid", 0, base, width, base)]
    for index, name in enumerate(drift.bins):
        middle = (index + 0.5) * pitch
        sides = (("fill-baseline", drift.baseline), ("fill-current", drift.current))
        for side, (css, shares) in enumerate(sides):
            size = shares[index] / highest * (base - 4) if highest else 0
            which = "baseline" if side == 0 else "now"
            tip = f"{name}, {which}: {percent_text(shares[index])}"
            parts.append(
                _rect(css, middle + (side - 1) * column, base - size, column - 1, size, tip)
            )
    label = f"Shares of {drift.name} by bin, baseline beside now; the table has the numbers."
    return _svg(width, height, label, parts)


def _nice_ceiling(value: float) -> float:
    """Return the smallest of 1, 2, 4, 5, 10 times a power of ten that is not below a value."""
    if value <= 1:
        return 1.0
    magnitude = 10.0 ** math.floor(math.log10(value))
    return float(next(m * magnitude for m in (1, 2, 4, 5, 10) if m * magnitude >= value))
