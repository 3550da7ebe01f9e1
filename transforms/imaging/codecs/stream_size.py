"""The size that a compressed stream itself claims, read from its markers before any decoder runs.

A decoder allocates what the stream says, not what the DICOM header says; the two must agree.
"""

from __future__ import annotations

import struct

JPEG_START = b"\xff\xd8"
JPEG2000_START = b"\xff\x4f\xff\x51"
JP2_CODESTREAM_BOX = b"jp2c"
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})


def stream_size(stream: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG, JPEG-LS or JPEG 2000 stream, None where it says none.

    Standard: SOF of ISO/IEC 10918-1 B.2.2 and ISO/IEC 14495-1 C.2.2, SIZ of ISO/IEC 15444-1 A.5.1.
    """
    if stream.startswith(JPEG_START):
        return _jpeg_size(stream)
    start = 0
    if not stream.startswith(JPEG2000_START):
        start = stream.find(JP2_CODESTREAM_BOX, 0, 4096) + len(JP2_CODESTREAM_BOX)
    if stream[start : start + 4] != JPEG2000_START or len(stream) < start + 24:
        return None
    right, bottom, left, top = struct.unpack_from(">4L", stream, start + 8)
    return bottom - top, right - left


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in STANDALONE:
            at += 2
        elif marker in START_OF_FRAME:
            rows, columns = struct.unpack_from(">2H", stream, at + 5)
            return rows, columns
        else:
            (length,) = struct.unpack_from(">H", stream, at + 2)
            at += 2 + length
    return None
