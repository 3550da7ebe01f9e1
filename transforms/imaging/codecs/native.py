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

from transforms.imaging.codecs.area import average, padding_range
from transforms.imaging.codecs.frame import FrameRequest, NoFastPath, StoredFrame
from transforms.reasons import Reason, Rejected, Stage

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
    big = request.transfer_syntax_uid == ExplicitVRBigEndian
    if not request.is_gray or request.bits_allocated == 1 or (big and request.bits_allocated == 8):
        raise NoFastPath
    kind = "i" if request.signed else "u"
    dtype = np.dtype(f"{'>' if big else '<'}{kind}{request.bits_allocated // 8}")
    count = request.rows * request.columns
    start = request.index * count * dtype.itemsize
    value = request.pixels.value
    if len(value) < start + count * dtype.itemsize:
        raise Rejected(Stage.DECODE, Reason.TRUNCATED, "pixel data")
    flat = np.frombuffer(value, dtype, count, start)
    stored = clear_unused_bits(flat, request).reshape(request.rows, request.columns)
    return average(stored, request.reduction, padding_range(request.dataset))


def clear_unused_bits(
    flat: np.ndarray[tuple[int], np.dtype[np.integer]], request: FrameRequest
) -> np.ndarray[tuple[int], np.dtype[np.integer]]:
    """Drop what stands outside Bits Stored: old objects keep overlays there (PS3.5 8.1.2)."""
    bits, shift = request.bits_stored, request.high_bit + 1 - request.bits_stored
    if bits == request.bits_allocated:
        return flat
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if request.signed else (0, (1 << bits) - 1)
    if shift <= 0 and low <= flat.min() and flat.max() <= high:
        return flat
    native = flat.astype(flat.dtype.newbyteorder("="))
    left = request.bits_allocated - bits - max(shift, 0)
    return (native << left) >> (request.bits_allocated - bits)
