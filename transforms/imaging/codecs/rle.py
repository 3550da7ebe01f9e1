"""RLE gray frames by imagecodecs, decoded whole and averaged.

Strips of rows cannot be skipped: the header says where the segments (byte planes) start, not their rows.

Standard: PS3.5 annexes A.4.2 and G.
"""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
from pydicom.uid import RLELossless

from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)
from transforms.imaging.codecs.native import averaged

SYNTAXES = frozenset({str(RLELossless)})
HEADER = struct.Struct("<16L")
"""Number of segments and where they start (annex G.5)."""


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a gray frame.

    Raises:
        NoFastPath: colour, palette, or segments that do not hold the frame.
    """
    if request.bits_allocated not in (8, 16) or not request.is_gray:
        raise NoFastPath
    dtype = np.dtype(f"<{'i' if request.signed else 'u'}{request.bits_allocated // 8}")
    frame = encapsulated_frame(request)
    _require_segments_inside(frame, dtype.itemsize)
    try:
        out = bytearray(request.rows * request.columns * dtype.itemsize)  # and not a byte more
        decoded = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype, out=out), dtype)
        values = decoded.reshape(request.rows, request.columns)
    except Exception as error:  # of the codec, or another size than the header says
        raise NoFastPath from error
    return averaged(values, request)


def _require_segments_inside(frame: bytes, planes: int) -> None:
    """Raise `NoFastPath` unless a segment for each byte plane starts inside the frame.

    imagecodecs would read outside it, and takes more segments than that.
    """
    if len(frame) < HEADER.size:
        raise NoFastPath
    segments, *offsets = HEADER.unpack_from(frame)
    inside = (HEADER.size <= offset < len(frame) for offset in offsets[:planes])
    if segments != planes or not all(inside):
        raise NoFastPath
