"""Finer anatomy than the labels, learnt beside them from the same features, and dropped afterwards.

A knee and a skull are both "others", a neck and a whole spine both "spine": a network that has to tell
them apart has less to gain from what tells one collection from another (Caruana 1997, "Multitask
Learning").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from models.training.data.images import LabeledImage
from transforms.core.errors import UsageError

UNKNOWN: Final = -1
"""Stands for the region of an image that is of none, or of a rare one."""
MIN_IMAGES: Final = 8
GUESSED: Final = "pred:"
"""Stands before a region that a model named; it counts like any other."""


def number_regions(images: Sequence[LabeledImage]) -> tuple[list[int], int]:
    """Return each image's region as a number, or `UNKNOWN`, and how many regions there are.

    A region is what the manifest calls so, of one label, in whatever case: collections write it in
    their own, and telling them apart is not to be learnt. It takes `MIN_IMAGES` images to be one.

    Raises:
        UsageError: there is none.
    """
    names = [
        (image.label, image.region.removeprefix(GUESSED).strip().casefold()) for image in images
    ]
    counts = Counter(name for name in names if name[1])
    known = sorted(name for name, count in counts.items() if count >= MIN_IMAGES)
    if not known:
        raise UsageError(
            f"--region_weight: no region has {MIN_IMAGES} train images; give a manifest with a "
            "column region, or 0"
        )
    number = {name: i for i, name in enumerate(known)}
    return [number.get(name, UNKNOWN) for name in names], len(known)


def region_loss(logits: Tensor, regions: Tensor, label_smoothing: float) -> Tensor:
    """Return the mean cross-entropy over images, 0 for those of `UNKNOWN` region.

    Args:
        logits: float32[N, n_regions].
        regions: int64[N].
        label_smoothing: in [0, 1).
    """
    of_known = nn.functional.cross_entropy(
        logits, regions, label_smoothing=label_smoothing, ignore_index=UNKNOWN, reduction="sum"
    )
    return of_known / len(regions)
