"""What a compressed stream says of itself, read from its markers before any decoder runs.

A decoder allocates and draws what the stream says, not what the DICOM header says: the two must
agree, and a stream must have its end.
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
class StreamHeader:
    """Size and kind of a stream.

    Attributes:
        rows: pixels.
        columns: pixels.
        components: samples per pixel.
        is_dct: whether it is baseline, extended or progressive JPEG.
        has_end: whether the stream's end is there; always true of JPEG 2000.
    """

    rows: int
    columns: int
    components: int
    is_dct: bool
    has_end: bool


def read_stream_header(stream: bytes) -> StreamHeader | None:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 stream; None where it is none of them.

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
    return StreamHeader(bottom - top, right - left, components, is_dct=False, has_end=True)


def _jpeg(stream: bytes) -> StreamHeader | None:
    at = len(JPEG_START)
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in STANDALONE:
            at += 2
        elif marker in START_OF_FRAME:
            rows, columns, components = struct.unpack_from(">2HB", stream, at + 5)
            has_end = stream.rstrip(b"\0\xff").endswith(b"\xd9") and JPEG_END in stream[-4096:]
            return StreamHeader(rows, columns, components, marker in DCT_FRAMES, has_end)
        else:
            (length,) = struct.unpack_from(">H", stream, at + 2)
            at += 2 + length
    return None
