"""Plates: images that show two views side by side, such as a frontal and a lateral spine.

Consoles and older plates join views into one image. The seam is a strip of one gray level, or the edge of
a collimated view: a vertical step in most rows at the same column.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.imaging.preprocessing import Gray, preprocess, stretch_contrast

IMAGES_OF_PLATE: Final = 3
"""The whole and its two views."""
SCAN_WIDTH: Final = 320
"""Width at which views are looked for, in pixels; the limits below hold at this width and 8 bits."""
SCAN_ROWS: Final = 128
"""Minimum number of rows that are looked at, of images that have as many; at most twice as many are."""
_MAX_HEIGHT: Final = 3.0
"""Greatest height by width of a plate; two narrow views are wider together."""
_MIN_POSITION: Final = 0.22
"""Least distance of a seam from the sides, as a share of the width."""
_MAX_STRIP_DEVIATION: Final = 2.0
"""Greatest standard deviation of a column within a strip."""
_MIN_STEP: Final = 10
"""Least difference of two neighbouring columns at an edge."""
_MIN_STEP_SHARE: Final = 0.6
"""Least share of rows that have such a step at the same column."""
_MIN_EXCESS: Final = 0.4
"""Least excess of that share over the columns around, as texture has steps everywhere."""
_NEIGHBOURHOOD: Final = 15
"""Columns around, on either side."""
_SEAM_MARGIN: Final = 2
"""Columns cut off beside a seam and at the sides."""
_BORDER_SPREAD: Final = 8.0
"""Range of most gray levels (10th to 90th percentile) up to which rows and columns are a border."""
_MIN_VIEW_SHARE: Final = 0.15
"""Least width and height of a view, as a share of the image's width."""
_FIRST: Final = round(SCAN_WIDTH * _MIN_POSITION)
_LAST: Final = SCAN_WIDTH - _FIRST
"""Columns between which a seam is."""

Levels: TypeAlias = npt.NDArray[np.uint8]


def network_inputs(gray: Gray, size: int) -> Levels:
    """Return an image as the network sees it, and each view if it is a plate; see `preprocess`.

    Args:
        gray: uint8[H, W] or float32[H, W], finite, dense tissue bright.
        size: side of the network's input in pixels.

    Returns:
        uint8[1, size, size]; or uint8[3, size, size] of a plate: the whole, the left and the right view.
    """
    images = (gray, *split_plate(gray))
    return np.concatenate([preprocess(image, size) for image in images])


def split_plate(gray: Gray) -> tuple[Gray, ...]:
    """Return the two views of a plate without their borders, from left to right.

    Args:
        gray: uint8[H, W] or float32[H, W], finite.

    Returns:
        two parts of the image, or () if it shows a single view.
    """
    height, width = gray.shape
    if height > _MAX_HEIGHT * width:
        return ()
    levels = _scan(gray)
    seam = _find_seam(levels)
    if seam is None:
        return ()
    row, column = height / len(levels), width / SCAN_WIDTH
    views = []
    for start, end in (
        (_SEAM_MARGIN, seam - _SEAM_MARGIN),
        (seam + _SEAM_MARGIN, SCAN_WIDTH - _SEAM_MARGIN),
    ):
        top, bottom = (round(edge * row) for edge in _inside(levels[:, start:end], axis=1))
        left, right = (
            round((start + edge) * column) for edge in _inside(levels[:, start:end], axis=0)
        )
        if min(right - left, bottom - top) <= width * _MIN_VIEW_SHARE:
            return ()
        views.append(gray[top:bottom, left:right])
    return tuple(views)


def find_seam(gray: Gray) -> float | None:
    """Return the position at which a second view may begin, as a share of the width, or None.

    Args:
        gray: as `split_plate`.
    """
    seam = _find_seam(_scan(gray))
    return None if seam is None else seam / SCAN_WIDTH


def _scan(gray: Gray) -> Levels:
    """Return rows of an image at `SCAN_WIDTH`, their contrast stretched: uint8[h, SCAN_WIDTH]."""
    rows = np.ascontiguousarray(gray[:: max(1, len(gray) // SCAN_ROWS)], np.float32)
    wide = Image.fromarray(rows).resize((SCAN_WIDTH, len(rows)), Image.Resampling.BICUBIC)
    return stretch_contrast(np.asarray(wide))


def _find_seam(levels: Levels) -> int | None:
    """Return the first column of the second view in the rows of `_scan`, or None."""
    deviations = levels[:, _FIRST:_LAST].astype(np.float32).std(axis=0)
    strip = _FIRST + np.flatnonzero(deviations < _MAX_STRIP_DEVIATION)
    if len(strip):
        return int(strip[np.abs(strip - SCAN_WIDTH / 2).argmin()])
    steps = np.abs(np.diff(levels.astype(np.int16), axis=1)) > _MIN_STEP
    shares = steps.mean(axis=0)
    best = _FIRST + int(shares[_FIRST:_LAST].argmax())
    around = float(np.median(shares[best - _NEIGHBOURHOOD : best + _NEIGHBOURHOOD + 1]))
    is_edge = float(shares[best]) >= max(_MIN_STEP_SHARE, around + _MIN_EXCESS)
    return best if is_edge else None


def _inside(view: Levels, axis: int) -> tuple[int, int]:
    """Return the first row (axis 1) or column (axis 0) that is no border, and the last one plus one.

    Single letters and markers in a border do not count. Both are 0 if everything is border.
    """
    low, high = np.percentile(view, (10, 90), axis=axis)
    shown = np.flatnonzero(high - low > _BORDER_SPREAD)
    return (int(shown[0]), int(shown[-1]) + 1) if len(shown) else (0, 0)
