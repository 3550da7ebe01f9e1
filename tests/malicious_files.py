"""Objects crafted to kill a reader: bombs, deep nesting, absurd lengths and offsets, cut streams.

Each says which reasons a quarantine may give; None stands for an object that is harmless after all.
"""

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


class Killer(NamedTuple):
    """A crafted object, and what may be said of it."""

    data: bytes
    reasons: Set[Reason | None]


def inserted(junk: bytes) -> bytes:
    """A film with bytes put in before group 0028."""
    plain = dicom_bytes(PIXELS)
    at = plain.index(struct.pack("<HH", 0x28, 2))
    return plain[:at] + junk + plain[at:]


def nested(depth: int) -> bytes:
    """Sequences of undefined length within each other."""
    return inserted((SEQUENCE_HEAD + ITEM_HEAD) * depth + (ITEM_END + SEQUENCE_END) * depth)


def nested_defined(depth: int) -> bytes:
    """Sequences that say their length, within each other."""
    inner = b""
    for _ in range(depth):
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(inner)) + inner
        inner = struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, len(item)) + item
    return inserted(inner)


def deflated(data_set: bytes) -> bytes:
    """A deflated object of these bytes."""
    head = dicom_bytes(PIXELS, syntax=DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack_from("<L", head, 140)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return head[: 144 + length] + deflater.compress(data_set) + deflater.flush()


def encapsulated(
    stream: bytes, syntax: str, pixels: np.ndarray = PIXELS_8, **elements: Any
) -> bytes:
    """An object as of some pixels, whose pixel data is this one stream, whatever it is."""
    ds = dataset(pixels, syntax=JPEGBaseline8Bit, **elements)
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    return to_bytes(ds)


def jpeg2000_claims(rows: int, columns: int, tile: int) -> bytes:
    """A JPEG 2000 stream whose SIZ marker claims another image (ISO/IEC 15444-1, A.5.1)."""
    stream = bytearray(imagecodecs.jpeg2k_encode(PIXELS_8, level=0, codecformat="j2k"))
    at = stream.index(b"\xff\x51")
    struct.pack_into(">8L", stream, at + 6, columns, rows, 0, 0, tile, tile, 0, 0)
    return bytes(stream)


def jpeg_claims(rows: int, columns: int) -> bytes:
    """A JPEG stream whose frame header claims another image (ITU-T T.81, B.2.2)."""
    stream = bytearray(imagecodecs.jpeg8_encode(PIXELS_8))
    at = stream.index(b"\xff\xc0")
    struct.pack_into(">HH", stream, at + 5, rows, columns)
    return bytes(stream)


def rle(offsets: list[int]) -> bytes:
    """An RLE frame whose header has these offsets (PS3.5 annex G.5)."""
    padded = [len(offsets), *offsets, *[0] * (15 - len(offsets))]
    return encapsulated(struct.pack("<16L", *padded) + b"\x81\x00" * 40, RLELossless)


def offset_table(offsets: list[int], frames: int) -> bytes:
    """Encapsulated frames under a Basic Offset Table of one's own (PS3.5 annex A.4)."""
    ds = dataset(PIXELS, syntax=JPEGLSLossless, NumberOfFrames=frames)
    stream = ds.PixelData[8:]
    table = struct.pack(f"<{len(offsets)}L", *offsets)
    ds.PixelData = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(table)) + table + stream
    return to_bytes(ds)


def extended_offset_table(offset: int, length: int) -> bytes:
    """A frame that the Extended Offset Table (7FE0,0001) places anywhere."""
    return dicom_bytes(
        PIXELS,
        syntax=JPEGLSLossless,
        ExtendedOffsetTable=struct.pack("<Q", offset),
        ExtendedOffsetTableLengths=struct.pack("<Q", length),
    )


def with_text(keyword: str, value: bytes) -> bytes:
    """A film with a value of any bytes."""
    plain = dataset(PIXELS, **{keyword: "MARK"})
    data, mark = to_bytes(plain), b"MARK"
    at = data.index(mark)
    padded = value + b" " * (len(value) % 2)
    return data[: at - 2] + struct.pack("<H", len(padded)) + padded + data[at + len(mark) :]


def cut_streams() -> Iterator[tuple[str, Killer]]:
    """Objects that end early, in each transfer syntax."""
    for syntax in (
        ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless,
        JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless,
        HTJ2KLossless,
    ):  # fmt: skip
        whole = dicom_bytes(PIXELS_8 if syntax == JPEGBaseline8Bit else PIXELS, syntax=syntax)
        for share in (0.5, 0.95):
            data = whole[: int(len(whole) * share)]
            yield f"cut {syntax} at {share}", Killer(data, {*ANY_HEADER, *ANY_PIXELS})


CRAFTED: dict[str, Callable[[], Killer]] = {
    "deflate bomb": lambda: Killer(deflated(bytes(1 << 28)), {Reason.INFLATES_TOO_FAR}),
    "deflated items": lambda: Killer(
        deflated(SEQUENCE_HEAD + b"\xfe\xff\x00\xe0\0\0\0\0" * 400_000), {Reason.TOO_MANY_ITEMS}
    ),
    "deflate noise": lambda: Killer(
        deflated(b"")[:-2] + bytes(range(256)) * 10, {Reason.UNREADABLE_HEADER, Reason.TRUNCATED}
    ),
    "nested 60 deep": lambda: Killer(nested(60), {None}),
    "nested 70 deep": lambda: Killer(nested(70), {Reason.NESTED_TOO_DEEP}),
    "nested 90,000 deep": lambda: Killer(nested(90_000), {Reason.NESTED_TOO_DEEP}),
    "nested 2,000 deep, lengths said": lambda: Killer(
        nested_defined(2_000), {None, Reason.NESTED_TOO_DEEP}
    ),
    "sequence without end": lambda: Killer(
        inserted(SEQUENCE_HEAD + ITEM_HEAD), {*ANY_HEADER, None}
    ),
    "sequence longer than the object": lambda: Killer(
        inserted(struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, 0x7FFFFFFF)), ANY_HEADER
    ),
    "value of 4 GB": lambda: Killer(
        inserted(struct.pack("<HH2sHL", 9, 0x1001, b"UT", 0, 0xFFFFFFFE)), ANY_HEADER
    ),
    "unknown VR": lambda: Killer(
        inserted(struct.pack("<HH2sH", 9, 0x1001, b"\xff\xff", 4) + b"abcd"),
        {*ANY_HEADER, Reason.NO_PIXEL_DATA, None},
    ),
    "jpeg 2000 of 60,000 x 60,000": lambda: Killer(
        encapsulated(
            jpeg2000_claims(60_000, 60_000, 60_000), JPEG2000Lossless, Rows=60_000, Columns=60_000
        ),
        {Reason.TOO_MANY_PIXELS},
    ),
    "jpeg 2000 larger than its header": lambda: Killer(
        encapsulated(jpeg2000_claims(60_000, 60_000, 60_000), JPEG2000Lossless),
        {Reason.SIZE_MISMATCH},
    ),
    "jpeg 2000 in 64 million tiles": lambda: Killer(
        encapsulated(jpeg2000_claims(8_000, 8_000, 1), JPEG2000Lossless, Rows=8000, Columns=8000),
        {*ANY_PIXELS, Reason.TOOK_TOO_LONG, Reason.TOO_MUCH_MEMORY},
    ),
    "jpeg of 65,500 x 65,500": lambda: Killer(
        encapsulated(jpeg_claims(65_500, 65_500), JPEGBaseline8Bit, Rows=65_500, Columns=65_500),
        {Reason.TOO_MANY_PIXELS},
    ),
    "jpeg larger than its header": lambda: Killer(
        encapsulated(jpeg_claims(65_500, 65_500), JPEGBaseline8Bit), {Reason.SIZE_MISMATCH}
    ),
    "jpeg of 10,000 x 10,000 in a kilobyte": lambda: Killer(
        encapsulated(jpeg_claims(10_000, 10_000), JPEGBaseline8Bit, Rows=10_000, Columns=10_000),
        {*ANY_PIXELS, None},
    ),
    "rle segments past the end": lambda: Killer(rle([64, 0xFFFFFFF0]), ANY_PIXELS),
    "rle segments going back": lambda: Killer(rle([128, 64]), ANY_PIXELS),
    "rle segments in one place": lambda: Killer(rle([64, 64]), ANY_PIXELS),
    "rle of four billion segments": lambda: Killer(
        encapsulated(struct.pack("<16L", *[0xFFFFFFFF] * 16), RLELossless), ANY_PIXELS
    ),
    "offset table past the end": lambda: Killer(
        offset_table([0, 0xFFFFFF00], 2), {*ANY_PIXELS, None}
    ),
    "offset table in a circle": lambda: Killer(offset_table([0, 0, 0], 3), {*ANY_PIXELS, None}),
    "offset table of 100,000": lambda: Killer(
        offset_table(list(range(100_000)), 100_000), {*ANY_PIXELS, None}
    ),
    "extended offsets past the end": lambda: Killer(
        extended_offset_table(1 << 62, 1 << 62), {*ANY_PIXELS, None}
    ),
    "two billion frames": lambda: Killer(
        dicom_bytes(PIXELS, NumberOfFrames=2**31 - 1), {Reason.TOO_MANY_FRAMES}
    ),
    "frames that are not there": lambda: Killer(
        dicom_bytes(PIXELS, NumberOfFrames=1000), {*ANY_PIXELS, Reason.BAD_PIXEL_DESCRIPTION, None}
    ),
    "65,535 x 65,535 without pixels": lambda: Killer(
        dicom_bytes(PIXELS, Rows=65_535, Columns=65_535), {Reason.TOO_MANY_PIXELS}
    ),
    "10,000 x 10,000 in a few bytes": lambda: Killer(
        dicom_bytes(PIXELS, Rows=10_000, Columns=10_000), {*ANY_PIXELS}
    ),
    "pixel data too long": lambda: Killer(
        dicom_bytes(PIXELS, Rows=PIXELS.shape[0] // 2), {None, *ANY_PIXELS}
    ),
    "no bits": lambda: Killer(dicom_bytes(PIXELS, BitsAllocated=0), {Reason.BAD_PIXEL_DESCRIPTION}),
    "character sets that are none": lambda: Killer(
        with_text("StudyDescription", b"\x1b$)C\xff\xfe\x1b[31m\x00<script>"), {None}
    ),
    "a comment of 60 kB": lambda: Killer(with_text("StudyDescription", b"x" * 60_000), {None}),
    "100,000 private elements": lambda: Killer(
        inserted(
            b"".join(
                struct.pack("<HH2sH", 9, 0x1000 + n % 0xEFFF, b"LO", 2) + b"ab"
                for n in range(100_000)
            )
        ),
        {None, *ANY_HEADER},
    ),
    "pixel data twice": lambda: Killer(
        dicom_bytes(PIXELS) + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 4) + b"abcd", {None}
    ),
    "zeros": lambda: Killer(bytes(1 << 20), {Reason.NOT_DICOM}),
    "only a preamble": lambda: Killer(bytes(128) + b"DICM", {*ANY_HEADER, Reason.MISSING_UID}),
    "a meta group of 4 GB": lambda: Killer(
        bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, 0xFFFFFFFF),
        {*ANY_HEADER, Reason.MISSING_UID},
    ),
    "a transfer syntax of 10 kB": lambda: Killer(
        bytes(128)
        + b"DICM"
        + struct.pack("<HH2sH", 2, 0x10, b"UI", 10_000)
        + b"1" * 10_000
        + dicom_bytes(PIXELS)[400:],
        {*ANY_HEADER, Reason.MISSING_UID, Reason.UNSUPPORTED_SYNTAX},
    ),
}


def malicious_files() -> Iterator[tuple[str, Killer]]:
    """Every crafted object by name."""
    for name, craft in CRAFTED.items():
        yield name, craft()
    yield from cut_streams()
