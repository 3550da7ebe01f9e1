"""Read the image size from the markers of a compressed codestream before a decoder runs.

A decoder allocates what the codestream claims, not what the DICOM header claims: the two must agree, and
the codestream must have its end marker.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

JPEG_START = b"\xff\xd8"
JPEG_END = b"\xff\xd9"
JPEG2000_START = b"\xff\x4f\xff\x51"
JP2_CODESTREAM_BOX = b"jp2c"
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
DCT_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True)
class CodestreamHeader:
    """Size and kind of a codestream.

    Attributes:
        rows: Height in pixels.
        columns: Width in pixels.
        components: Samples per pixel.
        is_dct: Whether it is baseline, extended or progressive JPEG.
        has_end: Whether the end marker is present; always True for JPEG 2000.
    """

    rows: int
    columns: int
    components: int
    is_dct: bool
    has_end: bool


def read_codestream_header(stream: bytes) -> CodestreamHeader | None:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None if it is none of them.

    Standard: SOF of ISO/IEC 10918-1 B.2.2 and ISO/IEC 14495-1 C.2.2, SIZ of ISO/IEC 15444-1 A.5.1.
    """
    if stream.startswith(JPEG_START):
        return _jpeg(stream)
    start = 0
    if not stream.startswith(JPEG2000_START):
        start = stream.find(JP2_CODESTREAM_BOX, 0, 4096) + len(JP2_CODESTREAM_BOX)
    if stream[start : start + 4] != JPEG2000_START or len(stream) < start + 42:
        return None
    right, bottom, left, top = struct.unpack_from(">4L", stream, start + 8)
    (components,) = struct.unpack_from(">H", stream, start + 40)
    return CodestreamHeader(bottom - top, right - left, components, is_dct=False, has_end=True)


def _jpeg(stream: bytes) -> CodestreamHeader | None:
    position = len(JPEG_START)
    while position + 10 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in STANDALONE:
            position += 2
        elif marker in START_OF_FRAME:
            rows, columns, components = struct.unpack_from(">2HB", stream, position + 5)
            has_end = stream.rstrip(b"\0\xff").endswith(b"\xd9") and JPEG_END in stream[-4096:]
            return CodestreamHeader(rows, columns, components, marker in DCT_FRAMES, has_end)
        else:
            (length,) = struct.unpack_from(">H", stream, position + 2)
            position += 2 + length
    return None
