"""Malicious objects: bombs, deep nesting, invalid lengths and offsets, truncated codestreams."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Set
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.core.reasons import Reason

PIXELS = image(shape=(96, 64))
PIXELS_8 = (PIXELS >> 4).astype(np.uint8)
UNDEFINED = 0xFFFFFFFF
SEQUENCE_HEAD = struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, UNDEFINED)
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
ITEM_HEAD = b"\xfe\xff\x00\xe0" + struct.pack("<L", UNDEFINED)
ITEM_END = b"\xfe\xff\x0d\xe0\0\0\0\0"
ANY_HEADER = {Reason.UNREADABLE_HEADER, Reason.TRUNCATED, Reason.NOT_DICOM}
ANY_PIXELS = {Reason.UNDECODABLE_PIXELS, Reason.TRUNCATED, Reason.SIZE_MISMATCH}


class MaliciousFile(NamedTuple):
    """A malicious object and its acceptable reasons; None if it need not be quarantined."""

    data: bytes
    reasons: Set[Reason | None]


def inserted(junk: bytes) -> bytes:
    """Return an object with bytes inserted before group 0028."""
    plain = dicom_bytes(PIXELS)
    position = plain.index(struct.pack("<HH", 0x28, 2))
    return plain[:position] + junk + plain[position:]


def nested(depth: int) -> bytes:
    """Return an object with nested sequences of undefined length."""
    return inserted((SEQUENCE_HEAD + ITEM_HEAD) * depth + (ITEM_END + SEQUENCE_END) * depth)


def nested_defined(depth: int) -> bytes:
    """Return an object with nested sequences of defined length."""
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
        inner = struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, len(item)) + item
    return inserted(inner)


def deflated(data_set: bytes) -> bytes:
    """Return a deflated object whose data set is these bytes."""
    head = dicom_bytes(PIXELS, syntax=DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack_from("<L", head, 140)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return head[: 144 + length] + deflater.compress(data_set) + deflater.flush()


def encapsulated(
    codestream: bytes, syntax: str, pixels: np.ndarray = PIXELS_8, **elements: Any
) -> bytes:
    """Return an object with the header of `pixels` and this codestream as its pixel data."""
    ds = dataset(pixels, syntax=JPEGBaseline8Bit, **elements)
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].is_undefined_length = True
    return to_bytes(ds)


def jpeg2000_of_claimed_size(rows: int, columns: int, tile: int) -> bytes:
    """Return a JPEG 2000 codestream with another size in SIZ (ISO/IEC 15444-1 A.5.1)."""
    codestream = bytearray(imagecodecs.jpeg2k_encode(PIXELS_8, level=0, codecformat="j2k"))
    position = codestream.index(b"\xff\x51")
    struct.pack_into(">8L", codestream, position + 6, columns, rows, 0, 0, tile, tile, 0, 0)
    return bytes(codestream)


def jpeg_of_claimed_size(rows: int, columns: int) -> bytes:
    """Return a JPEG codestream with another size in its frame header (ISO/IEC 10918-1 B.2.2)."""
    codestream = bytearray(imagecodecs.jpeg8_encode(PIXELS_8))
    position = codestream.index(b"\xff\xc0")
    struct.pack_into(">HH", codestream, position + 5, rows, columns)
    return bytes(codestream)


def rle(offsets: list[int]) -> bytes:
    """Return an object with these segment offsets in its RLE header (PS3.5 annex G.5)."""
    padded = [len(offsets), *offsets, *[0] * (15 - len(offsets))]
    return encapsulated(struct.pack("<16L", *padded) + b"\x81\x00" * 40, RLELossless)


def offset_table(offsets: list[int], frames: int) -> bytes:
    """Return an object with this Basic Offset Table (PS3.5 annex A.4)."""
    ds = dataset(PIXELS, syntax=JPEGLSLossless, NumberOfFrames=frames)
    fragments = ds.PixelData[8:]
    table = struct.pack(f"<{len(offsets)}L", *offsets)
    ds.PixelData = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(table)) + table + fragments
    return to_bytes(ds)


def extended_offset_table(offset: int, length: int) -> bytes:
    """Return an object with this Extended Offset Table (7FE0,0001)."""
    return dicom_bytes(
        PIXELS,
        syntax=JPEGLSLossless,
        ExtendedOffsetTable=struct.pack("<Q", offset),
        ExtendedOffsetTableLengths=struct.pack("<Q", length),
    )


def with_text(keyword: str, value: bytes) -> bytes:
    """Return an object with any bytes as the value of a text element."""
    plain = dataset(PIXELS, **{keyword: "MARK"})
    data, mark = to_bytes(plain), b"MARK"
    position = data.index(mark)
    padded = value + b" " * (len(value) % 2)
    length = struct.pack("<H", len(padded))
    return data[: position - 2] + length + padded + data[position + len(mark) :]


def truncated_files() -> Iterator[tuple[str, MaliciousFile]]:
    """Yield truncated objects in each transfer syntax."""
    for syntax in (
        ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless,
        JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless,
        HTJ2KLossless,
    ):  # fmt: skip
        complete = dicom_bytes(PIXELS_8 if syntax == JPEGBaseline8Bit else PIXELS, syntax=syntax)
        for share in (0.5, 0.95):
            data = complete[: int(len(complete) * share)]
            yield f"{syntax} truncated at {share}", MaliciousFile(data, {*ANY_HEADER, *ANY_PIXELS})


BUILDERS: dict[str, Callable[[], MaliciousFile]] = {
    "deflate bomb": lambda: MaliciousFile(deflated(bytes(1 << 28)), {Reason.INFLATES_TOO_FAR}),
    "deflated items": lambda: MaliciousFile(
        deflated(SEQUENCE_HEAD + b"\xfe\xff\x00\xe0\0\0\0\0" * 400_000), {Reason.TOO_MANY_ITEMS}
    ),
    "deflate noise": lambda: MaliciousFile(
        deflated(b"")[:-2] + bytes(range(256)) * 10, {Reason.UNREADABLE_HEADER, Reason.TRUNCATED}
    ),
    "nested 60 deep": lambda: MaliciousFile(nested(60), {None}),
    "nested 70 deep": lambda: MaliciousFile(nested(70), {Reason.NESTED_TOO_DEEP}),
    "nested 90,000 deep": lambda: MaliciousFile(nested(90_000), {Reason.NESTED_TOO_DEEP}),
    "nested 2,000 deep, defined length": lambda: MaliciousFile(
        nested_defined(2_000), {None, Reason.NESTED_TOO_DEEP}
    ),
    "unterminated sequence": lambda: MaliciousFile(
        inserted(SEQUENCE_HEAD + ITEM_HEAD), {*ANY_HEADER, None}
    ),
    "sequence longer than the object": lambda: MaliciousFile(
        inserted(struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, 0x7FFFFFFF)), ANY_HEADER
    ),
    "value of 4 GB": lambda: MaliciousFile(
        inserted(struct.pack("<HH2sHL", 9, 0x1001, b"UT", 0, 0xFFFFFFFE)), ANY_HEADER
    ),
    "unknown VR": lambda: MaliciousFile(
        inserted(struct.pack("<HH2sH", 9, 0x1001, b"\xff\xff", 4) + b"abcd"),
        {*ANY_HEADER, Reason.NO_PIXEL_DATA, None},
    ),
    "jpeg 2000 of 60,000 x 60,000": lambda: MaliciousFile(
        encapsulated(
            jpeg2000_of_claimed_size(60_000, 60_000, 60_000),
            JPEG2000Lossless,
            Rows=60_000,
            Columns=60_000,
        ),
        {Reason.TOO_MANY_PIXELS},
    ),
    "jpeg 2000 larger than its header": lambda: MaliciousFile(
        encapsulated(jpeg2000_of_claimed_size(60_000, 60_000, 60_000), JPEG2000Lossless),
        {Reason.SIZE_MISMATCH},
    ),
    "jpeg 2000 of 64 million tiles": lambda: MaliciousFile(
        encapsulated(
            jpeg2000_of_claimed_size(8_000, 8_000, 1), JPEG2000Lossless, Rows=8000, Columns=8000
        ),
        {*ANY_PIXELS, Reason.TOOK_TOO_LONG, Reason.TOO_MUCH_MEMORY},
    ),
    "jpeg of 65,500 x 65,500": lambda: MaliciousFile(
        encapsulated(
            jpeg_of_claimed_size(65_500, 65_500), JPEGBaseline8Bit, Rows=65_500, Columns=65_500
        ),
        {Reason.TOO_MANY_PIXELS},
    ),
    "jpeg larger than its header": lambda: MaliciousFile(
        encapsulated(jpeg_of_claimed_size(65_500, 65_500), JPEGBaseline8Bit), {Reason.SIZE_MISMATCH}
    ),
    "jpeg of 10,000 x 10,000 in a kilobyte": lambda: MaliciousFile(
        encapsulated(
            jpeg_of_claimed_size(10_000, 10_000), JPEGBaseline8Bit, Rows=10_000, Columns=10_000
        ),
        {*ANY_PIXELS, None},
    ),
    "rle segments beyond the end": lambda: MaliciousFile(rle([64, 0xFFFFFFF0]), ANY_PIXELS),
    "rle segments in descending order": lambda: MaliciousFile(rle([128, 64]), ANY_PIXELS),
    "overlapping rle segments": lambda: MaliciousFile(rle([64, 64]), ANY_PIXELS),
    "rle of four billion segments": lambda: MaliciousFile(
        encapsulated(struct.pack("<16L", *[0xFFFFFFFF] * 16), RLELossless), ANY_PIXELS
    ),
    "offset table beyond the end": lambda: MaliciousFile(
        offset_table([0, 0xFFFFFF00], 2), {*ANY_PIXELS, None}
    ),
    "offset table of equal offsets": lambda: MaliciousFile(
        offset_table([0, 0, 0], 3), {*ANY_PIXELS, None}
    ),
    "offset table of 100,000 frames": lambda: MaliciousFile(
        offset_table(list(range(100_000)), 100_000), {*ANY_PIXELS, None}
    ),
    "extended offset table beyond the end": lambda: MaliciousFile(
        extended_offset_table(1 << 62, 1 << 62), {*ANY_PIXELS, None}
    ),
    "two billion frames": lambda: MaliciousFile(
        dicom_bytes(PIXELS, NumberOfFrames=2**31 - 1), {Reason.TOO_MANY_FRAMES}
    ),
    "missing frames": lambda: MaliciousFile(
        dicom_bytes(PIXELS, NumberOfFrames=1000), {*ANY_PIXELS, Reason.BAD_PIXEL_DESCRIPTION, None}
    ),
    "65,535 x 65,535 without pixels": lambda: MaliciousFile(
        dicom_bytes(PIXELS, Rows=65_535, Columns=65_535), {Reason.TOO_MANY_PIXELS}
    ),
    "10,000 x 10,000 in a few bytes": lambda: MaliciousFile(
        dicom_bytes(PIXELS, Rows=10_000, Columns=10_000), {*ANY_PIXELS}
    ),
    "pixel data too long": lambda: MaliciousFile(
        dicom_bytes(PIXELS, Rows=PIXELS.shape[0] // 2), {None, *ANY_PIXELS}
    ),
    "zero Bits Allocated": lambda: MaliciousFile(
        dicom_bytes(PIXELS, BitsAllocated=0), {Reason.BAD_PIXEL_DESCRIPTION}
    ),
    "invalid character sets": lambda: MaliciousFile(
        with_text("StudyDescription", b"\x1b$)C\xff\xfe\x1b[31m\x00<script>"), {None}
    ),
    "description of 60 kB": lambda: MaliciousFile(
        with_text("StudyDescription", b"x" * 60_000), {None}
    ),
    "100,000 private elements": lambda: MaliciousFile(
        inserted(
            b"".join(
                struct.pack("<HH2sH", 9, 0x1000 + n % 0xEFFF, b"LO", 2) + b"ab"
                for n in range(100_000)
            )
        ),
        {None, *ANY_HEADER},
    ),
    "two pixel data elements": lambda: MaliciousFile(
        dicom_bytes(PIXELS) + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 4) + b"abcd", {None}
    ),
    "only zeros": lambda: MaliciousFile(bytes(1 << 20), {Reason.NOT_DICOM}),
    "only a preamble": lambda: MaliciousFile(
        bytes(128) + b"DICM", {*ANY_HEADER, Reason.MISSING_UID}
    ),
    "meta group of 4 GB": lambda: MaliciousFile(
        bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, 0xFFFFFFFF),
        {*ANY_HEADER, Reason.MISSING_UID},
    ),
    "transfer syntax of 10 kB": lambda: MaliciousFile(
        bytes(128)
        + b"DICM"
        + struct.pack("<HH2sH", 2, 0x10, b"UI", 10_000)
        + b"1" * 10_000
        + dicom_bytes(PIXELS)[400:],
        {*ANY_HEADER, Reason.MISSING_UID, Reason.UNSUPPORTED_SYNTAX},
    ),
}


def malicious_files() -> Iterator[tuple[str, MaliciousFile]]:
    """Yield every malicious object with its name."""
    for name, build in BUILDERS.items():
        yield name, build()
    yield from truncated_files()
