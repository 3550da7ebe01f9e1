"""JPEG 2000 and HTJ2K grayscale frames, decoded at reduced resolution without the finer wavelet levels.

A pixel of a lower resolution level is centered on the first pixel of the block that it stands for, not on
the center of the block.

Standard: PS3.5 annex A.4.4 and A.4.8; ISO/IEC 15444-1 annex B (resolution levels) and annex F (wavelets).
"""

from __future__ import annotations

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

from transforms.imaging.buffer_stream import open_buffer
from transforms.imaging.codecs.area_average import average_blocks, padding_range
from transforms.imaging.codecs.codestream_header import (
    CODING_STYLE,
    CodestreamHeader,
    read_codestream_header,
)
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
MAX_OVERSHOOT = 0.3
"""Of the low-pass filter of the 5/3 wavelet: a quarter of the contrast, and the rounding of levels."""
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
    if request.signed is not codestream.is_signed or _must_be_masked(request, codestream):
        raise NoFastPath
    size = (request.columns, request.rows)
    values, levels = _decode_reduced(frame, codestream.precision, levels, size)
    if request.signed:
        values -= 1 << codestream.precision - 1
    elif request.bits_stored < codestream.precision:
        values = _without_overshoot(values, (1 << request.bits_stored) - 1)
    if request.padding and _shows_padding(values, request):
        raise NoFastPath
    cell = 1 << levels
    return average_blocks(values, cell, request, phase=(1 - cell) / 2)


def _must_be_masked(request: FrameRequest, codestream: CodestreamHeader) -> bool:
    """Return whether stored values are in some bits of the samples, or are signed and may be."""
    if request.bits_stored >= codestream.precision:
        return False
    return request.signed or request.high_bit != request.bits_stored - 1


def _without_overshoot(values: npt.NDArray[np.int32], highest: int) -> npt.NDArray[np.int32]:
    """Clip the overshoot of wavelets beside edges to the highest value of Bits Stored.

    Raises:
        NoFastPath: Values are higher than overshoot, or in an area of 3 x 3 pixels: they have bits
            outside Bits Stored. Lines of such bits that are narrower than that may not be found.
    """
    above = values > highest
    if not above.any():
        return values
    in_column = above[:-2] & above[1:-1] & above[2:]
    in_area = in_column[:, :-2] & in_column[:, 1:-1] & in_column[:, 2:]
    if in_area.any() or values.max() > highest * (1 + MAX_OVERSHOOT):
        raise NoFastPath
    return np.minimum(values, highest)


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
    frame: memoryview, precision: int, levels: int, size: tuple[int, int]
) -> tuple[npt.NDArray[np.int32], int]:
    """Discard `levels` wavelet levels, or fewer if Pillow does not support them for the tiling.

    Returns:
        int32[h, w], and the number of levels discarded.
    """
    try:
        with Image.open(open_buffer(frame), formats=("JPEG2000",)) as image:
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


def _wavelet_levels(codestream: memoryview) -> int:
    """Return the number of decomposition levels. Standard: ISO/IEC 15444-1 table A.15 (COD)."""
    found = CODING_STYLE.search(codestream)
    return codestream[found.start() + 9] if found and found.start() + 9 < len(codestream) else 0
