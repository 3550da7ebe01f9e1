"""Plates: images that show two views side by side, such as a frontal and a lateral spine.

Consoles and older plates join views into one image. The seam is a strip of one gray level, or the edge of
a collimated view: a vertical step in most rows at the same column.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

SEAM_WIDTH: Final = 320
"""Width at which seams are looked for, in pixels; the limits below hold at this width and 8 bits."""
_MAX_HEIGHT: Final = 3.0
"""Greatest height by width of a plate; two narrow views are wider together."""
_MIN_POSITION: Final = 0.22
"""Least distance of a seam from the sides, as a share of the width."""
_MAX_STRIP_DEVIATION: Final = 2.0
"""Greatest standard deviation of a column within a strip."""
_MIN_STEP: Final = 8.0
"""Least difference of two neighbouring columns at an edge."""
_MIN_STEP_SHARE: Final = 0.55
"""Least share of rows that have such a step at the same column."""
_MIN_EXCESS: Final = 0.35
"""Least excess of that share over the columns around, as texture has steps everywhere."""
_NEIGHBOURHOOD: Final = 15
"""Columns around, on either side."""
_SEAM_MARGIN: Final = 3
"""Columns cut off beside a seam and at the sides."""
_BORDER_SPREAD: Final = 8.0
"""Range of most gray levels (10th to 90th percentile) up to which rows and columns are a border."""
_MIN_VIEW_SIDE: Final = 60
_MIN_VIEW_SHARE: Final = 0.15
"""Least width of a view, as a share of the image's width."""


def split_plate(gray: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], ...]:
    """Return the two views of a plate without their borders, from left to right.

    Args:
        gray: uint8[H, W].

    Returns:
        two images uint8[h, w], or () if the image shows a single view.
    """
    seam = find_seam(gray)
    if seam is None:
        return ()
    width = gray.shape[1]
    sides = (
        gray[:, _SEAM_MARGIN : seam - _SEAM_MARGIN],
        gray[:, seam + _SEAM_MARGIN : -_SEAM_MARGIN],
    )
    views = tuple(view for side in sides if (view := _without_border(side, width)) is not None)
    return views if len(views) == len(sides) else ()


def find_seam(gray: npt.NDArray[np.uint8]) -> int | None:
    """Return the column at which a second view may begin, or None.

    Args:
        gray: uint8[H, W].
    """
    height, width = gray.shape
    if height > _MAX_HEIGHT * width:
        return None
    size = (SEAM_WIDTH, max(8, round(height * SEAM_WIDTH / width)))
    values = np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BICUBIC), np.float32)
    inner = np.arange(round(SEAM_WIDTH * _MIN_POSITION), round(SEAM_WIDTH * (1 - _MIN_POSITION)))
    strip = inner[values[:, inner].std(axis=0) < _MAX_STRIP_DEVIATION]
    if len(strip):
        central = int(strip[np.abs(strip - SEAM_WIDTH / 2).argmin()])
        return int(central * width / SEAM_WIDTH)
    shares = (np.abs(np.diff(values, axis=1)) > _MIN_STEP).mean(axis=0)
    best = int(inner[shares[inner].argmax()])
    around = float(np.median(shares[best - _NEIGHBOURHOOD : best + _NEIGHBOURHOOD + 1]))
    is_edge = float(shares[best]) >= max(_MIN_STEP_SHARE, around + _MIN_EXCESS)
    return int(best * width / SEAM_WIDTH) if is_edge else None


def _without_border(view: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8] | None:
    """Return a view without its border, or None if too little is left of it."""
    if min(view.shape) <= _MIN_VIEW_SIDE:
        return None
    rows, columns = (np.flatnonzero(_spread(view, axis) > _BORDER_SPREAD) for axis in (1, 0))
    if len(rows) <= _MIN_VIEW_SIDE or len(columns) <= max(_MIN_VIEW_SIDE, width * _MIN_VIEW_SHARE):
        return None
    return np.ascontiguousarray(view[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _spread(view: npt.NDArray[np.uint8], axis: int) -> npt.NDArray[np.float64]:
    """Return the range of most gray levels along an axis; single letters and markers do not count."""
    low, high = np.percentile(view, (10, 90), axis=axis)
    return np.asarray(high - low)
