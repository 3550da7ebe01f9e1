"""RLE grayscale frames, decoded at full resolution by imagecodecs, then averaged.

Rows cannot be skipped: the RLE header has the offsets of segments (byte planes), not of rows.

Standard: PS3.5 annexes A.4.2 and G.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from pydicom.uid import RLELossless

from transforms.core.reasons import InvalidObject, Reason, Stage
from transforms.imaging.codecs.area_average import reduce_gray
from transforms.imaging.codecs.fragments import RLE_HEADER
from transforms.imaging.codecs.frame import (
    FrameRequest,
    NoFastPath,
    StoredFrame,
    encapsulated_frame,
    with_samples,
)

SYNTAXES = frozenset({str(RLELossless)})
NO_OPERATION = 128


def decode(request: FrameRequest) -> StoredFrame:
    """Return the averaged stored values of a grayscale frame.

    Raises:
        NoFastPath: Color, palette, or segments that do not contain the frame.
    """
    mapped, request = encapsulated_frame(request)
    frame = bytes(mapped)  # a file that is written meanwhile cannot change what has been checked
    request = _with_samples_of(frame, request)
    if request.bits_allocated not in (8, 16) or not request.is_gray:
        raise NoFastPath
    dtype = np.dtype(f"<{'i' if request.signed else 'u'}{request.bits_allocated // 8}")
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


def _with_samples_of(frame: bytes, request: FrameRequest) -> FrameRequest:
    """Return the request with the samples that one or two segments describe: grayscale of 8 or 16 bits.

    Standard: PS3.5 annex G.2, by which there is a segment for each byte of a pixel.
    """
    segments = int.from_bytes(frame[:4], "little")
    return with_samples(request, 1, 8 * segments) if segments in (1, 2) else request


def _require_segments_in_frame(frame: bytes, planes: int) -> None:
    """Raise `NoFastPath` unless there is one segment per byte plane, each starting in the frame.

    imagecodecs checks neither and would read out of bounds.
    """
    if len(frame) < RLE_HEADER.size:
        raise NoFastPath
    segments, *offsets = RLE_HEADER.unpack_from(frame)
    in_frame = (RLE_HEADER.size <= offset < len(frame) for offset in offsets[:planes])
    if segments != planes or not all(in_frame):
        raise NoFastPath


def require_complete(request: FrameRequest) -> None:
    """Raise `InvalidObject` if the last segment ends before it has a byte for each pixel.

    RLE has no end marker. Bytes after a complete segment do not matter.
    """
    frame, _ = encapsulated_frame(request)
    pixels = request.rows * request.columns
    header = bytes(frame[: RLE_HEADER.size]).ljust(RLE_HEADER.size, b"\0")
    count, *offsets = RLE_HEADER.unpack(header)
    if (
        count in range(1, len(offsets) + 1)
        and _decoded_bytes(frame[offsets[count - 1] :], pixels) < pixels
    ):
        raise InvalidObject(Stage.DECODE, Reason.TRUNCATED, "stream")


def _decoded_bytes(segment: memoryview, enough: int) -> int:
    """Return how many bytes a segment decodes to, or `enough` or more. Standard: PS3.5 annex G.3.1."""
    position, decoded = 0, 0
    while position < len(segment) and decoded < enough:
        control = segment[position]
        if control < NO_OPERATION:
            decoded += min(control + 1, len(segment) - position - 1)
            position += control + 2
        else:
            decoded += 257 - control if control > NO_OPERATION else 0
            position += 2 if control > NO_OPERATION else 1
    return decoded
