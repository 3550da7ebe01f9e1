"""RLE grayscale frames, decoded at full resolution by imagecodecs, then averaged.

Rows cannot be skipped: the RLE header has the offsets of segments (byte planes), not of rows.

Standard: PS3.5 annexes A.4.2 and G.
"""

from __future__ import annotations

import struct

import imagecodecs
import numpy as np
from pydicom.uid import RLELossless

from transforms.imaging.codecs.area_average import reduce_gray
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
)

SYNTAXES = frozenset({str(RLELossless)})
HEADER = struct.Struct("<16L")
"""Number of segments and their offsets (PS3.5 annex G.5)."""


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a grayscale frame.

    Raises:
        NoFastPath: Color, palette, or segments that do not contain the frame.
    """
    if request.bits_allocated not in (8, 16) or not request.is_gray:
        raise NoFastPath
    dtype = np.dtype(f"<{'i' if request.signed else 'u'}{request.bits_allocated // 8}")
    frame = encapsulated_frame(request)
    _require_segments_in_frame(frame, dtype.itemsize)
    try:
        out = bytearray(
            request.rows * request.columns * dtype.itemsize
        )  # bounds what the codec writes
        decoded = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype, out=out), dtype)
        values = decoded.reshape(request.rows, request.columns)
    except Exception as error:  # the codec failed, or the size differs from the header
        raise NoFastPath from error
    return reduce_gray(values, request)


def _require_segments_in_frame(frame: bytes, planes: int) -> None:
    """Raise `NoFastPath` unless there is one segment per byte plane, each starting in the frame.

    imagecodecs checks neither and would read out of bounds.
    """
    if len(frame) < HEADER.size:
        raise NoFastPath
    segments, *offsets = HEADER.unpack_from(frame)
    in_frame = (HEADER.size <= offset < len(frame) for offset in offsets[:planes])
    if segments != planes or not all(in_frame):
        raise NoFastPath
