"""From a gray film of any size to the network's input: the one path that training and serving share."""

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
"""What `preprocess` does, as bundles say it: whoever changes it gives it another name."""

Gray = npt.NDArray[np.float32] | npt.NDArray[np.uint8]


def preprocess(gray: Gray, size: int) -> npt.NDArray[np.uint8]:
    """Fit a film into a square by area-preserving scaling, contrast stretch and black padding.

    The film keeps its aspect ratio: a stretched spine looks like another anatomy. The contrast is
    stretched between two percentiles after scaling, so that a few burned-in markers or dead pixels
    do not decide it and so that the cost does not depend on the film's size.

    Args:
        gray: float32[H, W] or uint8[H, W], any finite range, dense tissue bright.
        size: side of the square, in pixels.

    Returns:
        uint8[1, size, size]; a film of one constant value becomes zeros.
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
