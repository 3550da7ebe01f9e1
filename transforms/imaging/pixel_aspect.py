"""Give images square pixels: the network is trained on undistorted anatomy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset

ELEMENTS: Final = (
    "PixelAspectRatio",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
)
"""In order of preference; each has a vertical and a horizontal value (PS3.3 C.7.6.3.1.7, 10.7.1.3)."""
MAX_ASPECT: Final = 10.0
"""Of a pixel, in either direction; more is a mistake."""
TOLERANCE: Final = 0.005
"""Relative deviation from a square that is less than a pixel of the network's input."""


def pixel_aspect(ds: Dataset) -> float:
    """Return the height of a pixel divided by its width; 1.0 if unknown, implausible or nearly square."""
    for keyword in ELEMENTS:
        try:
            height, width = (float(value) for value in _values(ds, keyword))
            aspect = height / width
        except MemoryError:
            raise
        except Exception:  # pydicom raises many types for malformed elements
            continue
        if min(height, width) <= 0 or not 1 / MAX_ASPECT <= aspect <= MAX_ASPECT:
            continue
        return aspect if math.fabs(math.log(aspect)) > TOLERANCE else 1.0
    return 1.0


def to_square_pixels(gray: npt.NDArray[np.float32], aspect: float) -> npt.NDArray[np.float32]:
    """Enlarge the side along which pixels are longer, by bilinear interpolation.

    Args:
        gray: float32[h, w].
        aspect: Height of a pixel divided by its width.

    Returns:
        float32[round(h * aspect), w] for tall pixels, float32[h, round(w / aspect)] for wide ones.
    """
    if aspect == 1:
        return gray
    height, width = gray.shape
    size = round(width * max(1.0, 1 / aspect)), round(height * max(1.0, aspect))
    image = Image.fromarray(np.ascontiguousarray(gray, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _values(ds: Dataset, keyword: str) -> Iterable[Any]:
    return ds.get(keyword) or ()
