"""Native (uncompressed) grayscale frames, averaged on a view of the object's bytes.

Standard: PS3.5 section 8.1.1 and annexes A.1 to A.3. Deflated data sets are inflated before.
"""

from __future__ import annotations

import numpy as np
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs.area_average import reduce_gray
from transforms.imaging.codecs.frame import FrameRequest, NoFastPath, StoredFrame

SYNTAXES = frozenset(
    map(
        str,
        (
            ImplicitVRLittleEndian,
            ExplicitVRLittleEndian,
            ExplicitVRBigEndian,
            DeflatedExplicitVRLittleEndian,
        ),
    )
)


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a native grayscale frame.

    Raises:
        NoFastPath: Color, palette, single-bit pixels, or 8-bit pixels in big endian.
        InvalidObject: The pixel data is shorter than Rows x Columns.
    """
    is_big_endian = request.transfer_syntax_uid == ExplicitVRBigEndian
    if (
        not request.is_gray
        or request.bits_allocated == 1
        or (is_big_endian and request.bits_allocated == 8)
    ):
        raise NoFastPath
    kind = "i" if request.signed else "u"
    dtype = np.dtype(f"{'>' if is_big_endian else '<'}{kind}{request.bits_allocated // 8}")
    count = request.rows * request.columns
    start = request.index * count * dtype.itemsize
    value = request.pixels.value
    if len(value) < start + count * dtype.itemsize:
        raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "pixel data")
    raw = np.frombuffer(value, dtype, count, start).reshape(request.rows, request.columns)
    return reduce_gray(raw, request)
