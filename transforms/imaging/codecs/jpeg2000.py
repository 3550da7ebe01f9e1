"""JPEG 2000 and HTJ2K grayscale frames, decoded at reduced resolution without the finer wavelet levels.

A pixel of a lower resolution level is centered on the first pixel of the block that it stands for, not on
the center of the block.

Standard: PS3.5 annex A.4.4 and A.4.8; ISO/IEC 15444-1 annex B (resolution levels) and annex F (wavelets).
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, Jpeg2KImagePlugin
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
)

from transforms.imaging.codecs.area_average import average_blocks, padding_range
from transforms.imaging.codecs.codestream_header import read_codestream_header
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
MIN_AREA = 0.0005
"""Share of the frame below which pixel padding does not matter."""
MIN_DRAWN = 0.1
"""Share of the distance to the padding value by which a line of padding draws pixels towards it."""
MIN_VISIBLE = 0.01
"""Share of the frame's contrast below which it does not matter."""


def decode(request: FrameRequest) -> StoredFrame:
    """Return the stored values of a grayscale frame, reduced by wavelet levels, then by averaging.

    Raises:
        NoFastPath: Color, no reduction, more than 16 bits, samples with bits outside Bits Stored or in
            two's complement, or pixel padding, all of which wavelets mix with neighboring pixels; or a
            codestream that Pillow cannot decode.
    """
    frame, request = encapsulated_frame(request)
    codestream = read_codestream_header(frame)
    levels = min(request.reduction.bit_length() - 1, _wavelet_levels(frame))
    if not request.is_gray or levels < 1 or codestream is None or codestream.precision > 16:
        raise NoFastPath
    if request.bits_stored < codestream.precision or request.signed is not codestream.is_signed:
        raise NoFastPath
    size = (request.columns, request.rows)
    values, levels = _decode_reduced(frame, codestream.precision, levels, size)
    if request.signed:
        values -= 1 << codestream.precision - 1
    if request.padding and _shows_padding(values, request):
        raise NoFastPath
    cell = 1 << levels
    return average_blocks(values, cell, request, phase=(1 - cell) / 2)


def _shows_padding(values: npt.NDArray[np.int32], request: FrameRequest) -> bool:
    """Return whether a reduced frame shows pixel padding: in an area, or in a line along an edge.

    A line that is narrower than a reduced pixel draws the outermost pixels towards the padding value.
    """
    low, high = padding_range(request)
    distance = np.maximum(np.maximum(low - values, values - high), 0)
    if np.count_nonzero(distance) < (1 - MIN_AREA) * distance.size:
        return True
    contrast = np.ptp(values)
    sides = (distance, distance[::-1], distance.T, distance.T[::-1])
    for outermost, next_to_it in (
        (side[0].mean(), side[min(1, len(side) - 1)].mean()) for side in sides
    ):
        drawn = next_to_it - outermost
        if drawn > MIN_DRAWN * next_to_it and drawn > MIN_VISIBLE * contrast:
            return True
    return False


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
