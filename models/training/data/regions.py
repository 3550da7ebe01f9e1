"""Regions: anatomy finer than the labels, predicted by an auxiliary head that the bundle omits.

A knee and a skull are both "others". A network that has to tell them apart gains less from features that
reveal the source (Caruana 1997, "Multitask Learning").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from models.training.data.images import LabeledImage
from transforms.core.errors import UsageError

UNKNOWN_REGION: Final = -1
"""Number of an image's region if it has none, or a rare one."""
MIN_IMAGES: Final = 8
PREDICTED_PREFIX: Final = "pred:"
"""Marks a region in the manifest that a model predicted; it counts like any other."""


def number_regions(images: Sequence[LabeledImage]) -> tuple[list[int], int]:
    """Return each image's region as a number or `UNKNOWN_REGION`, and the number of regions.

    Regions are named by the manifest, within a label and without regard to case; one needs `MIN_IMAGES`
    images.

    Raises:
        UsageError: There is none.
    """
    names = [
        (image.label, image.region.removeprefix(PREDICTED_PREFIX).strip().casefold())
        for image in images
    ]
    counts = Counter(name for name in names if name[1])
    known = sorted(name for name, count in counts.items() if count >= MIN_IMAGES)
    if not known:
        raise UsageError(
            f"--region_weight: no region has {MIN_IMAGES} train images; give a manifest with a column "
            "region, or 0"
        )
    number = {name: i for i, name in enumerate(known)}
    return [number.get(name, UNKNOWN_REGION) for name in names], len(known)
