"""Format the accuracy of the regions that a bundle predicts, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.bundle import BundleInfo


def region_lines(info: BundleInfo) -> list[str]:
    """Return the accuracy of a bundle's region head on val; no line without one."""
    if info.regions is None:
        return []
    return [
        f"regions: temperature {info.regions.temperature}, given from {info.regions.threshold:.2f}",
        *table("val", info.regions.metrics["val"]),
    ]


def table(split: str, metrics: Mapping[str, Any], *, by_region: bool = True) -> list[str]:
    """Return lines for the value of `models.training.evaluation.region_metrics`.

    Args:
        split: that was evaluated.
        metrics: of the regions.
        by_region: whether to show each region, and not only the regions of each label together.
    """
    lines = [
        f"{'region':<22}{'images':>7}{'given':>8}{'recall':>8}{'precision':>11}{'accuracy':>10}"
    ]
    named = {**(metrics["regions"] if by_region else {})}
    named |= {f"all {label}": of for label, of in metrics["labels"].items()}
    for name, of in {**named, f"all of {split}": metrics}.items():
        shares = (of["given"], of["recall"], of["precision"], of["accuracy"])
        given, recall, precision, accuracy = ("" if s is None else f"{s:.3f}" for s in shares)
        lines.append(
            f"{name:<22}{of['images']:>7}{given:>8}{recall:>8}{precision:>11}{accuracy:>10}"
        )
    return lines
