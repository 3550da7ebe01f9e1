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
    square = np.zeros((1, size, size), dtype=np.uint8)
    top, left = (size - inner[1]) // 2, (size - inner[0]) // 2
    square[0, top : top + inner[1], left : left + inner[0]] = stretch_contrast(small)
    return square


def stretch_contrast(gray: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return an image with the gray levels between two percentiles as 0..255; zeros if it is constant.

    Args:
        gray: float32[H, W], finite.
    """
    low, high = np.percentile(gray, (LOW_PERCENTILE, HIGH_PERCENTILE))
    if high <= low:
        low, high = float(gray.min()), float(gray.max())
    if high <= low:
        return np.zeros(gray.shape, dtype=np.uint8)
    levels = np.clip((gray - low) * (255.0 / (high - low)), 0.0, 255.0)
    return np.asarray(levels.round(), dtype=np.uint8)
