"""Read the description of the image and its end from the markers of a compressed codestream.

A decoder allocates what the codestream claims, not what the DICOM header claims: the two must agree on
the size, and the codestream must have its end marker. Whatever follows the end marker is not part of the
codestream: some codecs reject it, and devices write it. Precision, sign and components of the samples are
those of the codestream (PS3.5 section 8.2).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

Codestream: TypeAlias = bytes | memoryview
JPEG_START: Final = b"\xff\xd8"
JPEG2000_START: Final = b"\xff\x4f\xff\x51"
JP2_CODESTREAM_BOX: Final = re.compile(rb"jp2c")
JP2_SIGNATURE: Final = b"\x0cjP  \r\n"
"""Of the first box, after three zero bytes (ISO/IEC 15444-1 I.5.1)."""
MAX_LEADING_ZEROS: Final = 64
"""Zero bytes that a codestream may follow; devices pad fragments at both ends."""
MAX_TRAILING_ZEROS: Final = 64
"""Bytes at the end of a codestream in which its end marker is looked for first."""
START_OF_FRAME: Final = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
DCT_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
START_OF_SCAN: Final = 0xDA
SCAN_MARKER: Final = re.compile(rb"\xff\xda")
END: Final = 0xD9
"""End of Image of JPEG and JPEG-LS, End of Codestream of JPEG 2000."""
END_MARKER: Final = bytes((0xFF, END))
FIRST_END_MARKER: Final = re.compile(END_MARKER)
JPEG_MARKER: Final = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""In entropy-coded data, 0xFF is followed by 0x00 (ISO/IEC 10918-1 F.1.2.3), or is a restart marker."""
JPEG_LS_MARKER: Final = re.compile(rb"\xff([\x80-\xcf\xd8-\xfe])")
"""In entropy-coded data, 0xFF is followed by a zero bit (ISO/IEC 14495-1 A.1)."""
JPEG_LS_FRAME: Final = 0xF7
START_OF_TILE_PART: Final = 0x90
CODING_STYLE: Final = re.compile(rb"\xff\x52")


class Compression(Enum):
    """The standard that defines a codestream; it can differ from the transfer syntax."""

    JPEG = auto()
    JPEG_LS = auto()
    JPEG_2000 = auto()


@dataclass(frozen=True)
class CodestreamHeader:
    """Description of an image by its codestream.

    Attributes:
        compression: The standard that defines the codestream.
        rows: Height in pixels.
        columns: Width in pixels.
        components: Samples per pixel.
        precision: Bits per sample.
        is_signed: Whether samples are signed; always False for JPEG and JPEG-LS.
        is_dct: Whether it is baseline, extended or progressive JPEG.
        is_irreversible: Whether samples differ from the original by noise; always False for JPEG-LS.
        end: Position after the end marker, or None if there is none.
    """

    compression: Compression
    rows: int
    columns: int
    components: int
    precision: int
    is_signed: bool
    is_dct: bool
    is_irreversible: bool
    end: int | None


def starts_codestream(data: bytes | memoryview) -> bool:
    """Return whether bytes start with a JPEG, JPEG-LS or JPEG 2000 codestream, or with a JP2 file."""
    head = bytes(data[: MAX_LEADING_ZEROS + 12]).lstrip(b"\0")
    return head.startswith((JPEG_START + b"\xff", JPEG2000_START, JP2_SIGNATURE))


def strip_leading_zeros(stream: memoryview) -> memoryview:
    """Return a JPEG, JPEG-LS or JPEG 2000 codestream without zero bytes before it."""
    if not stream or stream[0] != 0:
        return stream
    head = bytes(stream[: MAX_LEADING_ZEROS + 4])
    stripped = head.lstrip(b"\0")
    is_start = stripped.startswith((JPEG_START, JPEG2000_START))
    return stream[len(head) - len(stripped) :] if is_start else stream


def read_codestream_header(stream: Codestream) -> CodestreamHeader | None:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None if it is none of them.

    Standard: SOF of ISO/IEC 10918-1 B.2.2 and ISO/IEC 14495-1 C.2.2, SIZ and COD of ISO/IEC 15444-1 A.5.1
    and A.6.1.
    """
    if stream[:2] == JPEG_START:
        return _jpeg(stream)
    start = 0
    if stream[:4] != JPEG2000_START and (box := JP2_CODESTREAM_BOX.search(stream, 0, 4096)):
        start = box.end()
    if stream[start : start + 4] != JPEG2000_START or len(stream) < start + 43:
        return None
    right, bottom, left, top = struct.unpack_from(">4L", stream, start + 8)
    components, depth = struct.unpack_from(">HB", stream, start + 40)
    coding_style = CODING_STYLE.search(stream, start)
    transformation = stream[coding_style.start() + 13 :][:1] if coding_style else b""
    return CodestreamHeader(
        Compression.JPEG_2000,
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        is_signed=depth > 0x7F,
        is_dct=False,
        is_irreversible=transformation == b"\0",
        end=_end_of_jpeg2000(stream, start),
    )


def _jpeg(stream: Codestream) -> CodestreamHeader | None:
    position = len(JPEG_START)
    while position + 10 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in STANDALONE:
            position += 2
        elif marker in START_OF_FRAME:
            precision, rows, columns, components = struct.unpack_from(">B2HB", stream, position + 4)
            is_jpeg_ls = marker == JPEG_LS_FRAME
            return CodestreamHeader(
                Compression.JPEG_LS if is_jpeg_ls else Compression.JPEG,
                rows=rows,
                columns=columns,
                components=components,
                precision=precision,
                is_signed=False,
                is_dct=marker in DCT_FRAMES,
                is_irreversible=marker in DCT_FRAMES,
                end=_end_of_jpeg(stream, position, is_jpeg_ls=is_jpeg_ls),
            )
        else:
            position = _after_segment(stream, position)
    return None


def _end_of_jpeg(stream: Codestream, position: int, *, is_jpeg_ls: bool) -> int | None:
    """Return the position after End of Image, which follows the last scan; None if there is none.

    Segments are skipped by their lengths, so that a marker in a comment or in an embedded preview is
    none. Where a length is wrong, the first end marker after the last scan that was found is the end:
    entropy-coded data cannot contain one. An end marker at the end, which nearly all codestreams have, is
    found without a search.

    Args:
        stream: JPEG or JPEG-LS.
        position: Of Start of Frame.
        is_jpeg_ls: Whether entropy-coded data has the bit stuffing of JPEG-LS.
    """
    tail = bytes(stream[-MAX_TRAILING_ZEROS:])
    without_zeros = tail.rstrip(b"\0")
    if without_zeros.endswith(END_MARKER) and SCAN_MARKER.search(stream, position):
        return len(stream) - len(tail) + len(without_zeros)
    pattern = JPEG_LS_MARKER if is_jpeg_ls else JPEG_MARKER
    last_scan = None
    while marker := pattern.search(stream, position):
        code = marker[1][0]
        if code == END and last_scan is not None:
            return marker.end()
        position = marker.end() - 2
        if code in STANDALONE or code == END:
            position += 2
            continue
        if position + 4 > len(stream):
            break
        position = _after_segment(stream, position)
        if code == START_OF_SCAN and position <= len(stream):
            last_scan = position
    return _first_end_marker(stream, last_scan)


def _after_segment(stream: Codestream, position: int) -> int:
    """Return the position after a marker segment at `position`; its length includes the length itself."""
    (length,) = struct.unpack_from(">H", stream, position + 2)
    return position + 2 + int(length)


def _end_of_jpeg2000(stream: Codestream, start: int) -> int | None:
    """Return the position after End of Codestream, which follows the last tile-part, or None.

    Standard: ISO/IEC 15444-1 A.4.2 (SOT; a length of 0 extends to the end), A.4.4 (EOC). Packets cannot
    contain the marker (B.10.1), so that it is searched for where a length is wrong.
    """
    position, last_tile = start + 2, None
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == START_OF_TILE_PART:
            if position + 12 > len(stream):
                return None
            (length,) = struct.unpack_from(">L", stream, position + 6)
            last_tile = position + 12
            if not 12 <= length <= len(stream) - position:
                break
            position += length
        elif last_tile is not None:
            break
        else:
            position = _after_segment(stream, position)
    if last_tile is not None and stream[position : position + 2] == END_MARKER:
        return position + 2
    return _first_end_marker(stream, last_tile)


def _first_end_marker(stream: Codestream, position: int | None) -> int | None:
    if position is None:
        return None
    found = FIRST_END_MARKER.search(stream, position)
    return found.end() if found else None
