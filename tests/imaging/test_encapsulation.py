"""Fragments, offset tables, bytes around codestreams, and encapsulation against the transfer syntax."""

from __future__ import annotations

import copy
import functools
import itertools
import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.synthetic import dataset, image, to_bytes
from transforms.core.reasons import InvalidObject, Reason
from transforms.imaging.codecs.codestream_header import read_codestream_header
from transforms.imaging.read_image import read_image

SIDE = 192
PIXELS = image(shape=(448, 320))
ENCAPSULATED = [
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
    RLELossless,
]
WITH_END_MARKER = [syntax for syntax in ENCAPSULATED if syntax != RLELossless]
syntaxes = pytest.mark.parametrize("syntax", ENCAPSULATED, ids=lambda syntax: UID(syntax).name)
syntaxes_with_end_marker = pytest.mark.parametrize(
    "syntax", WITH_END_MARKER, ids=lambda syntax: UID(syntax).name
)


def pixels_of(syntax: str) -> np.ndarray:
    return (PIXELS >> 4).astype(np.uint8) if syntax == JPEGBaseline8Bit else PIXELS


@functools.cache
def _compressed(syntax: str) -> FileDataset:
    return dataset(pixels_of(syntax), syntax=syntax)


def compressed(syntax: str) -> FileDataset:
    """Return an object of one frame, compressed once for all tests."""
    return copy.deepcopy(_compressed(syntax))


@functools.cache
def codestreams_of(syntax: str) -> tuple[bytes, ...]:
    """Return the codestreams of three frames: the image, its mirror image, and zeros."""
    frames = (pixels_of(syntax), pixels_of(syntax)[:, ::-1], np.zeros_like(pixels_of(syntax)))
    return tuple(
        next(generate_frames(dataset(frame.copy(), syntax=syntax).PixelData, number_of_frames=1))
        for frame in frames
    )


@functools.cache
def frame_of(syntax: str, number: int) -> np.ndarray:
    return read_image(with_items(syntax, b"", [codestreams_of(syntax)[number]]), SIDE)


def items(table: bytes, fragments: list[bytes]) -> bytes:
    padded = [part + b"\0" * (len(part) % 2) for part in fragments]
    return b"".join(
        b"\xfe\xff\x00\xe0" + struct.pack("<L", len(part)) + part for part in [table, *padded]
    )


def with_items(
    syntax: str, table: bytes, fragments: list[bytes], frames: int = 1, **elements: bytes
) -> bytes:
    ds = compressed(syntax)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    if frames != 1:
        ds.NumberOfFrames = frames
    return to_bytes(with_pixel_data(ds, items(table, fragments)))


def with_pixel_data(ds: FileDataset, value: bytes) -> FileDataset:
    ds.PixelData = value
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    return ds


def split(codestream: bytes, sizes: list[int]) -> list[bytes]:
    """Return a codestream in fragments of these even sizes; the rest is the last one."""
    ends = [0, *itertools.accumulate(sizes)]
    parts = [codestream[start:end] for start, end in itertools.pairwise(ends)]
    return [part for part in (*parts, codestream[ends[-1] :]) if part]


def reason_of(data: bytes) -> Reason:
    with pytest.raises(InvalidObject) as caught:
        read_image(data, SIDE)
    return caught.value.reason


TABLES = [
    b"",
    b"\x10\x27\0\0",
    b"\0\0",
    struct.pack("<2L", 0, 999_999),
    struct.pack("<3L", 0, 500, 900),
    struct.pack("<3L", 0, 8, 8),
    struct.pack("<L", 4),
    b"\xff" * 12,
]
fragment_sizes = st.lists(st.integers(32, 4000).map(lambda half: 2 * half), max_size=6)


@syntaxes
@given(table=st.sampled_from(TABLES) | st.binary(max_size=40).map(bytes), sizes=fragment_sizes)
def test_one_frame_is_all_fragments_whatever_the_table_states(
    syntax: str, table: bytes, sizes: list[int]
) -> None:
    data = with_items(syntax, table[: len(table) // 2 * 2], split(codestreams_of(syntax)[0], sizes))
    assert np.array_equal(read_image(data, SIDE), frame_of(syntax, 0))


@pytest.mark.slow
@syntaxes
@given(
    table=st.sampled_from(TABLES),
    sizes=st.lists(fragment_sizes, min_size=3, max_size=3),
    extended=st.sampled_from([None, *TABLES]),
    number=st.integers(1, 3),
)
def test_frames_are_found_by_their_fragments_where_the_table_does_not_fit(
    syntax: str, table: bytes, sizes: list[list[int]], extended: bytes | None, number: int
) -> None:
    streams = codestreams_of(syntax)
    parts = [
        part for stream, cut in zip(streams, sizes, strict=True) for part in split(stream, cut)
    ]
    tables = {} if extended is None else {"ExtendedOffsetTable": extended}
    data = with_items(syntax, table, parts, frames=3, **tables)
    found = read_image(data, SIDE, frame_number=number)
    assert np.array_equal(found, frame_of(syntax, number - 1))


@syntaxes
@pytest.mark.parametrize("kind", ["basic", "extended"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_table_that_fits_locates_the_frames(syntax: str, kind: str, number: int) -> None:
    streams = codestreams_of(syntax)
    parts = [split(stream, [100]) for stream in streams]
    sizes = [sum(8 + len(part) + len(part) % 2 for part in frame) for frame in parts]
    offsets = [0, *itertools.accumulate(sizes)][:3]
    flat = [part for frame in parts for part in frame]
    if kind == "basic":
        data = with_items(syntax, struct.pack("<3L", *offsets), flat, frames=3)
    else:
        table = {
            "ExtendedOffsetTable": struct.pack("<3Q", *offsets),
            "ExtendedOffsetTableLengths": struct.pack("<3Q", *map(len, streams)),
        }
        data = with_items(syntax, b"", flat, frames=3, **table)
    found = read_image(data, SIDE, frame_number=number)
    assert np.array_equal(found, frame_of(syntax, number - 1))


@syntaxes
@pytest.mark.parametrize("length", [0, 4, 12, 100, 0xFFFFFFF0])
def test_a_table_of_a_wrong_length(syntax: str, length: int) -> None:
    stream = codestreams_of(syntax)[0]
    value = items(b"\0" * 8, [stream])
    ds = with_pixel_data(compressed(syntax), value[:4] + struct.pack("<L", length) + value[8:])
    assert np.array_equal(read_image(to_bytes(ds), SIDE), frame_of(syntax, 0))


def test_no_fragments() -> None:
    for value in (items(b"", []), items(b"\0\0\0\0", []), items(b"", []) + bytes(100)):
        ds = with_pixel_data(dataset(PIXELS, syntax=JPEGLSLossless), value)
        assert reason_of(to_bytes(ds)) in {Reason.UNDECODABLE_PIXELS, Reason.TRUNCATED}


@syntaxes
def test_a_missing_table_and_a_wrong_number_of_frames(syntax: str) -> None:
    stream = codestreams_of(syntax)[0]
    without_table = with_pixel_data(
        compressed(syntax), items(stream, [])[: len(stream) // 2 * 2 + 10]
    )
    assert np.array_equal(read_image(to_bytes(without_table), SIDE), frame_of(syntax, 0))
    for parts in ([stream], split(stream, [64, 400])):
        data = with_items(syntax, b"", parts, frames=10)
        assert np.array_equal(read_image(data, SIDE), frame_of(syntax, 0))


@syntaxes
@given(
    rest=st.binary(min_size=1, max_size=64)
    | st.sampled_from([b"\0" * 8192, b" " * 8192, b"\xff\xd9", b"\xff" * 9])
    | st.just(codestreams_of(JPEGBaseline8Bit)[1])
)
def test_bytes_after_the_end_do_not_matter(syntax: str, rest: bytes) -> None:
    stream = codestreams_of(syntax)[0]
    if syntax != RLELossless:
        header = read_codestream_header(stream)
        assert header is not None
        stream = stream[: header.end]
    data = with_items(syntax, b"", [stream + rest])
    assert np.array_equal(read_image(data, SIDE), frame_of(syntax, 0))


@syntaxes_with_end_marker
def test_zeros_before_a_codestream_do_not_matter(syntax: str) -> None:
    data = with_items(syntax, b"", [b"\0\0" + codestreams_of(syntax)[0]])
    assert np.array_equal(read_image(data, SIDE), frame_of(syntax, 0))


@pytest.mark.slow
@syntaxes
@given(share=st.floats(0.6, 1), rest=st.sampled_from([b"", b"\0" * 64, b" " * 64, b"\x01\x02AB"]))
def test_a_codestream_without_an_end_is_truncated(syntax: str, share: float, rest: bytes) -> None:
    stream = codestreams_of(syntax)[0]
    header = read_codestream_header(stream)
    whole = stream.rstrip(b"\0") if header is None else stream[: (header.end or 0) - 2]
    cut = whole[: max(1000, int(len(whole) * share))]
    if syntax == RLELossless:
        cut, rest = cut[: len(cut) * 9 // 10], b""
    assert reason_of(with_items(syntax, b"", [cut + rest])) is Reason.TRUNCATED


def test_an_end_marker_in_a_segment_is_not_the_end() -> None:
    """Previews and comments contain markers."""
    stream = codestreams_of(JPEGBaseline8Bit)[0]
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(stream)) + stream
    scan = stream.index(b"\xff\xda")
    for at in (2, scan):
        data = with_items(JPEGBaseline8Bit, b"", [stream[:at] + comment + stream[at:]])
        assert np.array_equal(read_image(data, SIDE), frame_of(JPEGBaseline8Bit, 0))
        cut = (stream[:at] + comment + stream[at:])[:-400]
        assert reason_of(with_items(JPEGBaseline8Bit, b"", [cut])) is Reason.TRUNCATED


def test_the_end_of_a_progressive_jpeg_follows_its_last_scan() -> None:
    sink = BytesIO()
    Image.fromarray(pixels_of(JPEGBaseline8Bit)).save(sink, "JPEG", progressive=True, quality=95)
    stream = sink.getvalue()
    header = read_codestream_header(stream + b"\xff\xd9junk")
    assert header is not None
    assert header.end == len(stream)
    last_scan = stream.rindex(b"\xff\xda")
    assert reason_of(with_items(JPEGBaseline8Bit, b"", [stream[: last_scan + 40]])) is (
        Reason.TRUNCATED
    )


def test_fill_bytes_are_searched_in_linear_time() -> None:
    """A marker may begin with any number of them (ISO/IEC 10918-1 B.1.1.2)."""
    stream = codestreams_of(JPEGBaseline8Bit)[0][:-400] + b"\xff" * (1 << 20)
    for rest, end in ((b"\0", None), (b"\xd9junk", len(stream) + 1)):
        header = read_codestream_header(stream + rest)
        assert header is not None
        assert header.end == end


def relabeled(data: bytes, syntax: str) -> bytes:
    """Return the same bytes under another transfer syntax."""
    at = data.index(struct.pack("<HH2s", 2, 0x10, b"UI"), 132)
    (length,) = struct.unpack_from("<H", data, at + 6)
    (group_length,) = struct.unpack_from("<L", data, 140)
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    head = data[:140] + struct.pack("<L", group_length + len(uid) - length) + data[144:at]
    return head + struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid + data[at + 8 + length :]


@syntaxes
def test_native_pixel_data_under_a_compressed_syntax(syntax: str) -> None:
    native = to_bytes(dataset(pixels_of(syntax)))
    assert reason_of(relabeled(native, syntax)) is Reason.TRANSFER_SYNTAX_MISMATCH


@syntaxes
def test_encapsulated_pixel_data_under_a_native_syntax(syntax: str) -> None:
    data = with_items(syntax, b"", [codestreams_of(syntax)[0]])
    assert reason_of(relabeled(data, ExplicitVRLittleEndian)) is Reason.TRANSFER_SYNTAX_MISMATCH
    value = items(b"", [codestreams_of(syntax)[0]]) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for native, tag, head in (
        (ImplicitVRLittleEndian, b"\xe0\x7f\x10\0", b""),
        (ExplicitVRBigEndian, b"\x7f\xe0\0\x10", b"OW\0\0"),
    ):
        plain = to_bytes(dataset(PIXELS, syntax=native))
        data = plain[: plain.index(tag)] + tag + head + b"\xff" * 4 + value
        assert reason_of(data) is Reason.TRANSFER_SYNTAX_MISMATCH


def test_the_mismatch_names_the_transfer_syntax() -> None:
    native = relabeled(to_bytes(dataset(PIXELS)), JPEGLSLossless)
    with pytest.raises(InvalidObject, match="native pixel data under JPEG-LS Lossless"):
        read_image(native, SIDE)


def test_an_unknown_transfer_syntax_is_unsupported() -> None:
    for syntax in ("1.2.840.113619.5.2", "1.2.840.10008.1.2.4.94", "1.2.3"):
        data = relabeled(to_bytes(dataset(PIXELS)), syntax)
        assert reason_of(data) in {Reason.UNSUPPORTED_SYNTAX, Reason.TRANSFER_SYNTAX_MISMATCH}


def test_jpeg_2000_tile_parts_precede_the_end() -> None:
    sink = BytesIO()
    Image.fromarray(pixels_of(JPEGBaseline8Bit)).save(
        sink, "JPEG2000", tile_size=(128, 128), no_jp2=True
    )
    tiled = sink.getvalue()
    assert tiled.count(b"\xff\x90\0\x0a") == 12
    header = read_codestream_header(tiled + b"\xff\xd9junk")
    assert header is not None
    assert header.end == len(tiled)
    header = read_codestream_header(tiled[:-2])
    assert header is not None
    assert header.end is None
