"""The section of the model card about regions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.bundle import BundleInfo
from models.training.evaluation.markdown import markdown_table


def region_section(info: BundleInfo, evaluation: Mapping[str, Any]) -> list[str]:
    """Return the section, which is empty without a region head or without annotated regions."""
    found = evaluation.get("regions")
    if info.regions is None or not found:
        return []
    head = info.regions
    codes = {one.name: one.code for one in head.regions}
    rows = [
        [name, codes.get(name) or "", of["images"], *_shares(of)]
        for name, of in found["regions"].items()
        if of["images"] or of["precision"] is not None
    ]
    totals = {**{f"all {label}": of for label, of in found["labels"].items()}, "all": found}
    return [
        "## Regions",
        f"A second head on the features of the frozen network names one of {len(head.regions)} "
        "regions. It changes nothing in the labels. A region is given if its calibrated probability is "
        f"at least {head.threshold:.2f}, the lowest threshold by which at least "
        f"{head.target_precision:.0%} of the regions given to the images of each label of `val` are "
        "right, and if it is a region of the predicted label; otherwise it is null. "
        f"{found['images']} images have a region that a person named. Recall is the share of a "
        "region's images that are given it, or another region that they show; accuracy is that of the "
        "most probable region, given or not. Of the given regions, at most "
        f"{found['error_upper_95']:.1%} are wrong, by the 95 % upper bound (Clopper-Pearson).",
        markdown_table(
            ["region", "SNOMED CT", "images", "given", "recall", "precision", "accuracy"],
            [*rows, *([name, "", of["images"], *_shares(of)] for name, of in totals.items())],
        ),
    ]


def _shares(of: Mapping[str, Any]) -> list[str]:
    shares = (of[name] for name in ("given", "recall", "precision", "accuracy"))
    return ["" if share is None else f"{share:.3f}" for share in shares]
