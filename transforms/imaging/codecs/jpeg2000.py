"""JPEG 2000 and HTJ2K grayscale frames, decoded at reduced resolution without the finer wavelet levels.

Standard: PS3.5 annex A.4.4 and A.4.8; ISO/IEC 15444-1 annex B (resolution levels).
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, Jpeg2KImagePlugin
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
)

from transforms.imaging.codecs.area_average import average, padding_mask
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)

SYNTAXES = frozenset(
    map(str, (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K))
)
PILLOW_BITS = {"L": 8, "I;16": 16}


def decode(request: FrameRequest) -> StoredFrame:
    """Return the stored values of a grayscale frame, reduced by wavelet levels, then by averaging.

    Raises:
        NoFastPath: Color, no reduction, more than 16 bits, a codestream that disagrees with Pixel
            Representation, or one that Pillow cannot decode.
    """
    frame = encapsulated_frame(request)
    levels = min(request.reduction.bit_length() - 1, _wavelet_levels(frame))
    if not request.is_gray or levels < 1:
        raise NoFastPath
    stream = get_j2k_parameters(frame)
    precision = stream.get("precision", 0)
    if not 1 <= precision <= 16 or stream.get("is_signed") is not request.signed:
        raise NoFastPath
    values, levels = _decode_reduced(frame, precision, levels, (request.columns, request.rows))
    if request.signed:
        values -= 1 << precision - 1
    return average(values, request.reduction >> levels, padding_mask(values, request))


def _decode_reduced(
    frame: bytes, precision: int, levels: int, size: tuple[int, int]
) -> tuple[npt.NDArray[np.int32], int]:
    """Discard `levels` wavelet levels, or fewer if Pillow does not support them for the tiling.

    Returns:
        int32[h, w], and the number of levels discarded.
    """
    try:
        with Image.open(BytesIO(frame), formats=("JPEG2000",)) as image:
            assert isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile)
            if image.size != size or image.mode not in PILLOW_BITS:
                raise NoFastPath
            shift = PILLOW_BITS[image.mode] - precision  # Pillow scales to 8 or 16 bits
            image.reduce = levels
            image.load()
            return np.asarray(image).astype(np.int32) >> shift, levels
    except NoFastPath:
        raise
    except Exception as error:  # Pillow raises many types for malformed codestreams
        if levels == 1:
            raise NoFastPath from error
        return _decode_reduced(frame, precision, levels - 1, size)


def _wavelet_levels(codestream: bytes) -> int:
    """Return the number of decomposition levels. Standard: ISO/IEC 15444-1 table A.15 (COD)."""
    position = codestream.find(b"\xff\x52")
    return codestream[position + 9] if 0 <= position < len(codestream) - 9 else 0
