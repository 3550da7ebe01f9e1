"""Regions: anatomy finer than the labels, as the column `region` of a manifest names it.

A knee and a skull are both "others". A network that has to tell them apart gains less from features that
reveal the source (Caruana 1997, "Multitask Learning"): an auxiliary head, which bundles omit. The region
head of a bundle (`models.region_head`) is another one; its regions have the names of `regions_of`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from models.bundle import RegionInfo
from models.training.data.anatomy import region_of
from models.training.data.images import LabeledImage
from transforms.core.errors import UsageError

UNKNOWN_REGION: Final = -1
"""Number of an image's region if it has none, or a rare one."""
MIN_IMAGES: Final = 8
PREDICTED_PREFIX: Final = "pred:"
"""Marks a region in the manifest that a model predicted; to train, it counts like any other."""
SEPARATOR: Final = "+"
"""Between the regions of an image that shows several."""
MIN_LABEL_SHARE: Final = 0.05
"""Minimum share of a region's train images that have a label it belongs to; fewer are wrong labels."""

SPELLINGS: Final = {
    "axr": "abdomen",
    "abdomen_erect": "abdomen",
    "abdomen_upper": "abdomen",
    "abdomen_urography": "abdomen",
    "child_hips": "pelvis",
    "infant_pelvis": "pelvis",
    "clavicles": "clavicle",
    "dental_panoramic": "dental",
    "feet": "foot",
    "mammogram": "breast",
    "others": "",
    "rare": "",
}
"""Names in manifests that mean another region, or none."""
CERVICAL: Final = "cervical_spine"
THORACIC: Final = "thoracic_spine"
LUMBAR: Final = "lumbar_spine"
COMBINED: Final = {
    frozenset({CERVICAL, THORACIC}): "cervicothoracic_spine",
    frozenset({THORACIC, LUMBAR}): "thoracolumbar_spine",
    frozenset({CERVICAL, THORACIC, LUMBAR}): "whole_spine",
}
"""Regions of which several make one that has a code of its own."""


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


def regions_of(image: LabeledImage) -> tuple[str, ...]:
    """Return the names of the regions that an image shows, sorted; none if the manifest names none.

    Spelling does not matter: `Knee`, `pred:Knee` and `knee` are one, and so are `LumbarSpine` and
    `lumbar spine`.
    """
    text = image.region.strip().removeprefix(PREDICTED_PREFIX)
    names = {_name(part) for part in text.split(SEPARATOR)} - {""}
    return tuple(sorted({COMBINED[frozenset(names)]} if frozenset(names) in COMBINED else names))


def is_annotated(image: LabeledImage) -> bool:
    """Return whether a person named the region of an image."""
    return bool(regions_of(image)) and not image.region.strip().startswith(PREDICTED_PREFIX)


def list_regions(images: Sequence[LabeledImage]) -> list[RegionInfo]:
    """Return the regions that can be learned from train images, by name, with their codes.

    A region needs `MIN_IMAGES` images of a label that it belongs to.

    Args:
        images: of the train split.
    """
    counts = Counter((name, image.label) for image in images for name in regions_of(image))
    totals = Counter[str]()
    for (name, _), count in counts.items():
        totals[name] += count
    found = []
    for name in sorted(totals):
        labels = {
            label: count
            for (of, label), count in counts.items()
            if of == name and count >= MIN_LABEL_SHARE * totals[name]
        }
        if sum(labels.values()) >= MIN_IMAGES:
            code, meaning = region_of(name) or (None, None)
            found.append(
                RegionInfo(name=name, labels=tuple(sorted(labels)), code=code, meaning=meaning)
            )
    return found


def _name(part: str) -> str:
    """Return the name of a region in lower case with underscores, by its usual spelling."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", part)
    name = re.sub(r"[^a-z0-9]+", "_", words.casefold()).strip("_")
    return SPELLINGS.get(name, name)
