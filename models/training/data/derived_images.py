"""Images derived from train images: the single views of plates, and parts of whole spines.

Where most regional spines of a collection are plates that show two views side by side, a network takes
any two views for a spine and knows no single one. Parts of whole spines show thoracic and lumbar spines,
at the narrow collimation that tells a spine from an abdomen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image

from models.training.data.images import Gray8, LabeledImage, load_image, shrink, to_uint8
from models.training.options import FitOptions
from transforms.imaging.plates import SCAN_WIDTH, split_plate

WHOLE_SPINE: Final = "whole_spine"
"""Region of whole-spine images in a manifest."""
SQUEEZED_ASPECT: Final = 0.9
"""Width by height from which a whole spine was squeezed; none is as wide as high."""
SPINE_ASPECT: Final = (0.42, 0.6)
"""Width by height of a torso from neck to pelvis."""
FULL_ASPECT: Final = 0.4
"""Width by height below which an image shows head and thighs, too."""
PARTS: Final = {
    "ThoracicSpine": ((0.18, 0.52), (0.03, 0.55), (0.45, 0.8)),
    "LumbarSpine": ((0.46, 0.78), (0.5, 0.97), (0.4, 0.65)),
}
"""By region: rows of the part, as shares of the height, in full images and in others; and the range of
its width by height."""
JITTER: Final = 0.04
"""Greatest shift of a part's edges and centre, as a share of the image's height or width."""
_VIEWS: Final = " views"
_PARTS: Final = " parts"


def derive_images(
    images: Sequence[LabeledImage], options: FitOptions, long_side: int
) -> list[tuple[LabeledImage, Gray8]]:
    """Return what the training shows: the images with their pixels, and what is derived from them.

    Derived images have the group of the original, and a source of their own, whose name begins with the
    original's.

    Args:
        images: of the train split.
        options: `view_weight`, `plate_weight` and `part_weight`.
        long_side: of the result, in pixels; images that are not larger are kept as they are.

    Returns:
        image and uint8[H, W] for each; those of weight 0 are left out.
    """

    def derive(numbered: tuple[int, LabeledImage]) -> list[tuple[LabeledImage, Gray8]]:
        number, image = numbered
        gray = to_uint8(load_image(image.path, max(long_side, SCAN_WIDTH)))
        found = _derived(image, gray, options, np.random.default_rng((options.seed, number)))
        return [(one, shrink(pixels, long_side)) for one, pixels in found if one.weight > 0]

    with ThreadPoolExecutor() as pool:
        return [one for found in pool.map(derive, enumerate(images)) for one in found]


def _derived(
    image: LabeledImage, gray: Gray8, options: FitOptions, rng: np.random.Generator
) -> Iterator[tuple[LabeledImage, Gray8]]:
    """Yield an image, weighted as a plate if it is one, its single views and its parts."""
    is_compared = options.view_weight > 0 or options.plate_weight != 1
    views = split_plate(gray) if is_compared else ()
    weight = image.weight * (options.plate_weight if views else 1.0)
    yield replace(image, weight=weight), gray
    for view in views:
        source = image.source + _VIEWS
        yield (
            replace(image, source=source, weight=image.weight * options.view_weight),
            to_uint8(view),
        )
    if options.part_weight and image.region == WHOLE_SPINE:
        for region, part in spine_parts(gray, rng):
            source, weight = image.source + _PARTS, image.weight * options.part_weight
            yield replace(image, source=source, region=region, weight=weight), part


def spine_parts(gray: Gray8, rng: np.random.Generator) -> Iterator[tuple[str, Gray8]]:
    """Yield the thoracic and the lumbar part of a frontal whole-spine image, with their regions.

    Args:
        gray: uint8[H, W]; squeezed to a square or in its aspect ratio.
        rng: random generator.
    """
    height, width = gray.shape
    image = Image.fromarray(gray)
    if width >= SQUEEZED_ASPECT * height:
        width = round(height * rng.uniform(*SPINE_ASPECT))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    for region, (rows_of_full, rows, aspects) in PARTS.items():
        top, bottom = rows_of_full if width < FULL_ASPECT * height else rows
        top, bottom = (
            round(height * float(np.clip(edge + rng.uniform(-JITTER, JITTER), 0, 1)))
            for edge in (top, bottom)
        )
        part_width = min(width, round((bottom - top) * rng.uniform(*aspects)))
        shift = round(width * rng.uniform(-JITTER, JITTER))
        left = int(np.clip((width - part_width) // 2 + shift, 0, width - part_width))
        yield region, np.asarray(image.crop((left, top, left + part_width, bottom)))
