"""Convert stored values to a grayscale image with the polarity of MONOCHROME2.

Applies, in this order, the Modality LUT, the VOI LUT or window, the inversion of MONOCHROME1, and pixel
padding. Standard: PS3.4 N.2 (pixel transformation sequence), PS3.3 C.7.6.3.1.2 (Photometric
Interpretation).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.uid import ExplicitVRBigEndian

from transforms.imaging.codecs.frame import FrameRequest, StoredFrame
from transforms.imaging.modality_voi_lut import (
    apply_first_that_shows,
    modality_luts,
    rescale,
    voi_transformations,
)

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of R, G and B in Y. Source: ITU-R BT.601."""


def to_monochrome2(stored: StoredFrame, request: FrameRequest) -> npt.NDArray[np.float32]:
    """Return float32[h, w] in which high values are bright and pixel padding has the lowest value.

    LUTs and windows that are malformed or show nothing are skipped: the anatomy is visible without them.
    Presentation LUT Shape is ignored: devices are known to write it wrongly, and a correct one says what
    Photometric Interpretation says (PS3.3 C.8.11.3: INVERSE for MONOCHROME1).
    """
    if stored.values.ndim == 3:
        return stored.values @ LUMA
    gray = to_modality_values(stored, request)
    voi = voi_transformations(request.dataset, is_little_endian(request))
    return with_polarity(apply_first_that_shows(voi, gray, stored.padding), stored, request)


def to_modality_values(stored: StoredFrame, request: FrameRequest) -> npt.NDArray[np.float32]:
    """Apply the Modality LUT, or else the rescale, to the stored values of a grayscale frame."""
    luts = modality_luts(request.dataset, is_little_endian(request))
    gray = apply_first_that_shows(luts, stored.values, stored.padding)
    return rescale(gray, request.dataset) if gray is stored.values else gray


def with_polarity(
    gray: npt.NDArray[np.float32], stored: StoredFrame, request: FrameRequest
) -> npt.NDArray[np.float32]:
    """Invert MONOCHROME1, and give pixel padding the lowest value."""
    if request.photometric == "MONOCHROME1":
        gray = -gray
    if stored.padding is not None and stored.padding.any() and not stored.padding.all():
        gray = np.where(stored.padding, gray[~stored.padding].min(), gray)
    return gray.astype(np.float32, copy=False)


def is_little_endian(request: FrameRequest) -> bool:
    """Return whether the values of the header are in little endian."""
    return request.transfer_syntax_uid != ExplicitVRBigEndian
