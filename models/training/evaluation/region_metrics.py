"""Accuracy of predicted regions against the regions that a manifest names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from models.bundle import RegionsInfo
from models.regions import choose_region
from models.training.data.images import LabeledImage
from models.training.data.regions import is_annotated, regions_of
from models.training.evaluation.metrics import Reals, upper_bound

UNSUPPORTED: Final = "other regions"
"""Images of regions that the head does not have: it is wrong about each that it gives a region."""


def region_metrics(
    info: RegionsInfo,
    images: Sequence[LabeledImage],
    probabilities: Reals,
    predicted_labels: Sequence[str],
) -> dict[str, Any]:
    """Return how often a region is given and right, by region and by label.

    Images without a region in the manifest, and those whose region another model predicted, do not
    count. A region is right if the image shows it, possibly beside others.

    Args:
        info: of the region head.
        images: with their regions.
        probabilities: float[N, n_regions].
        predicted_labels: of each image.

    Returns:
        "images", "given" (share that is given a region), "precision" (share of right ones among those),
        "recall" (share of images that are given a right one), "error_upper_95" (Clopper-Pearson, of
        those given) and "accuracy" (share whose most probable region is right, given or not); the same
        by label in "labels", and by region in "regions", whose precision is among the images that were
        given this region.
    """
    counted = [n for n, image in enumerate(images) if is_annotated(image)]
    shown = [set(regions_of(images[n])) for n in counted]
    best = [info.names[int(probabilities[n].argmax())] for n in counted]
    chosen = [choose_region(info, probabilities[n].tolist(), predicted_labels[n]) for n in counted]
    given = [None if one is None else one.name for one in chosen]
    is_right = np.array([one in of for one, of in zip(given, shown, strict=True)], bool)
    is_given = np.array([one is not None for one in given], bool)
    is_best = np.array([one in of for one, of in zip(best, shown, strict=True)], bool)

    def figures(selected: Sequence[bool]) -> dict[str, Any]:
        mask = np.array(selected, bool)
        total, of_given = int(mask.sum()), int(is_given[mask].sum())
        right = int(is_right[mask].sum())
        return {
            "images": total,
            "given": _share(of_given, total),
            "precision": _share(right, of_given),
            "recall": _share(right, total),
            "error_upper_95": round(upper_bound(of_given - right, of_given), 4),
            "accuracy": _share(int(is_best[mask].sum()), total),
        }

    labels = sorted({images[n].label for n in counted})
    found: dict[str, Any] = {
        **figures([True] * len(counted)),
        "labels": {label: figures([images[n].label == label for n in counted]) for label in labels},
        "regions": {},
    }
    for name in info.names:
        of_region = figures([name in of for of in shown])
        named = np.array([one == name for one in given], bool)
        of_region["precision"] = _share(int(is_right[named].sum()), int(named.sum()))
        del of_region["error_upper_95"]
        found["regions"][name] = of_region
    unsupported = figures([not of & set(info.names) for of in shown])
    if unsupported["images"]:
        found["regions"][UNSUPPORTED] = {
            **{name: unsupported[name] for name in ("images", "given", "recall", "accuracy")},
            "precision": None,
        }
    return found


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
