"""Convert stored values to a grayscale image with the polarity of MONOCHROME2.

Applies, in this order, the Modality LUT, the VOI LUT or window, the inversion of MONOCHROME1, and pixel
padding. Standard: PS3.4 N.2 (pixel transformation sequence), PS3.3 C.7.6.3.1.2 (Photometric
Interpretation).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydicom.uid import ExplicitVRBigEndian

from transforms.imaging.codecs.frame import FrameRequest, StoredFrame
from transforms.imaging.modality_voi_lut import (
    Values,
    apply_modality_lut,
    apply_voi_lut,
    apply_windowing,
    is_usable,
)

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of R, G and B in Y. Source: ITU-R BT.601."""


def to_monochrome2(stored: StoredFrame, request: FrameRequest) -> npt.NDArray[np.float32]:
    """Return float32[h, w] in which high values are bright and pixel padding has the lowest value.

    Malformed LUTs and windows are ignored: the anatomy is visible without them.
    """
    if stored.values.ndim == 3:
        return stored.values @ LUMA
    ds = request.dataset
    little_endian = request.transfer_syntax_uid != ExplicitVRBigEndian
    gray = _apply(lambda values: apply_modality_lut(values, ds, little_endian), stored.values)
    for voi in (
        lambda values: apply_voi_lut(values, ds, little_endian),
        lambda values: apply_windowing(values, ds),
    ):
        transformed = _apply(voi, gray)
        if transformed is not gray:
            gray = transformed
            break
    if request.photometric == "MONOCHROME1":
        gray = -gray
    if stored.padding is not None and stored.padding.any() and not stored.padding.all():
        gray = np.where(stored.padding, gray[~stored.padding].min(), gray)
    return gray.astype(np.float32, copy=False)


def _apply(transform: Callable[[Values], Values | None], values: Values) -> Values:
    """Return transformed values, or `values` itself if the transformation is absent or unusable."""
    try:
        transformed = transform(values)
    except MemoryError:
        raise
    except Exception:  # pydicom and numpy raise many types for malformed elements
        return values
    return values if transformed is None or not is_usable(transformed) else transformed
