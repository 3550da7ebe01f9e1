"""Uncompressed gray frames, averaged on a view of the object's bytes.

Standard: PS3.5 section 8.1.1 and annex A.1 to A.3; deflated data sets arrive here inflated.
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
from transforms.imaging.codecs.area import Integers, average, padding_of
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
    """Return the averaged stored values of an uncompressed gray frame.

    Raises:
        NoFastPath: colour, palette, single-bit or 8-bit words in big endian.
        Rejected: the pixel data is shorter than Rows x Columns.
    """
    if request.pixels.encapsulated:
        raise InvalidObject(Stage.DECODE, Reason.BAD_PIXEL_DESCRIPTION, "pixel data encapsulated")
    big = request.transfer_syntax_uid == ExplicitVRBigEndian
    if not request.is_gray or request.bits_allocated == 1 or (big and request.bits_allocated == 8):
        raise NoFastPath
    kind = "i" if request.signed else "u"
    dtype = np.dtype(f"{'>' if big else '<'}{kind}{request.bits_allocated // 8}")
    count = request.rows * request.columns
    start = request.index * count * dtype.itemsize
    value = request.pixels.value
    if len(value) < start + count * dtype.itemsize:
        raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "pixel data")
    raw = np.frombuffer(value, dtype, count, start).reshape(request.rows, request.columns)
    return averaged(raw, request)


def averaged(raw: Integers, request: FrameRequest) -> StoredFrame:
    """Return a gray frame, decoded whole, averaged: padding found, then unused bits cleared."""
    is_padding = padding_of(raw, request)
    return average(clear_unused_bits(raw, request), request.reduction, is_padding)


def clear_unused_bits(raw: Integers, request: FrameRequest) -> Integers:
    """Drop what stands outside Bits Stored: old objects keep overlays there (PS3.5 8.1.2)."""
    bits, shift = request.bits_stored, request.high_bit + 1 - request.bits_stored
    if bits == request.bits_allocated:
        return raw
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if request.signed else (0, (1 << bits) - 1)
    if shift == 0 and low <= raw.min() and raw.max() <= high:
        return raw
    native = raw.astype(raw.dtype.newbyteorder("="))
    cleared: Integers = (native << request.bits_allocated - bits - shift) >> (
        request.bits_allocated - bits
    )
    return cleared
