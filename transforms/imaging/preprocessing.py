"""Convert a grayscale image to the network's input; shared by training and serving."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

LOW_PERCENTILE: Final = 0.5
HIGH_PERCENTILE: Final = 99.5
PREPROCESSING: Final = (
    "long side bilinear over areas, percentiles 0.5 to 99.5, padded black to a square"
)
"""Identifies the algorithm of `preprocess` in model bundles; change it whenever the output changes."""

Gray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]


def preprocess(gray: Gray, size: int) -> npt.NDArray[np.uint8]:
    """Resize an image to fit a square, stretch its contrast and pad it with black.

    The aspect ratio is kept: distorted anatomy resembles other anatomy. The contrast is stretched
    between two percentiles, so that burned-in markers and dead pixels have no effect, and after
    resizing, so that the cost does not depend on the image size.

    Args:
        gray: float32[H, W] or uint8[H, W], finite, dense tissue bright.
        size: Side of the square in pixels.

    Returns:
        uint8[1, size, size]; zeros for a constant image.
    """
    height, width = gray.shape
    scale = size / max(height, width)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(gray, dtype=np.float32))
    small = np.asarray(image.resize(inner, Image.Resampling.BILINEAR))
    low, high = np.percentile(small, (LOW_PERCENTILE, HIGH_PERCENTILE))
    if high <= low:
        low, high = float(small.min()), float(small.max())
    square = np.zeros((1, size, size), dtype=np.uint8)
    if high <= low:
        return square
    levels = np.clip((small - low) * (255.0 / (high - low)), 0.0, 255.0).round().astype(np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    square[0, top : top + inner[1], left : left + inner[0]] = levels
    return square
