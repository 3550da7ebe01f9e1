"""Figures of the model card: reliability diagram, risk-coverage curve and routed outliers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.training.evaluation.evaluate import Failure


def draw_reliability(path: Path, bins: Sequence[dict[str, float]]) -> None:
    """Write an SVG of accuracy over confidence; bins are those of `metrics.reliability`."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="0.7", linestyle="--")
        confidence = [b["confidence"] for b in bins]
        accuracy = [b["accuracy"] for b in bins]
        axes.scatter(confidence, accuracy, s=[4 + b["images"] ** 0.5 * 6 for b in bins])
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))

    _save_svg(path, draw)


def draw_risk_coverage(path: Path, curve: Sequence[dict[str, float]]) -> None:
    """Write an SVG of error over coverage; the curve is that of `metrics.risk_coverage`."""

    def draw(axes: Axes) -> None:
        axes.plot([p["coverage"] for p in curve], [100 * p["error"] for p in curve], marker=".")
        axes.set(xlabel="coverage, most confident images first", ylabel="error, %", ylim=(0, None))

    _save_svg(path, draw)


def draw_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write a PNG of routed outliers."""
    figure = Figure(figsize=(1.8 * len(failures), 2.4), layout="constrained")
    for number, failure in enumerate(failures, 1):
        axes = figure.add_subplot(1, len(failures), number)
        axes.imshow(failure.image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{failure.kind}:\n{failure.label} {failure.confidence:.2f}", fontsize=8)
        axes.set_axis_off()
    figure.savefig(path, dpi=72, metadata={"Software": None})


def _save_svg(path: Path, draw: Callable[[Axes], None]) -> None:
    """Write an SVG reproducibly."""
    with mpl.rc_context({"svg.hashsalt": "dicom-router", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4, 3.2), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(path, metadata={"Date": None})
