"""Parsing returns an object or raises `InvalidObject`, for any bytes."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.synthetic import dataset, dicom_bytes, to_bytes
from transforms.core.reasons import InvalidObject, Reason
from transforms.imaging.header import read_header, require_uids
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import read_image

PLAIN = dicom_bytes()


def reason_of(data: bytes, limits: Limits | None = None) -> Reason:
    with pytest.raises(InvalidObject) as caught:
        parsed = parse(data, limits or Limits())
        require_uids(parsed)
        read_image(data, 224, limits=limits)
    return caught.value.reason


def test_bytes_that_are_not_dicom() -> None:
    assert reason_of(b"") is Reason.EMPTY
    assert reason_of(b"x") is Reason.NOT_DICOM
    assert reason_of(b"PK\x03\x04" + bytes(500)) is Reason.NOT_DICOM
    assert reason_of(bytes(128) + b"DICM") is Reason.TRUNCATED


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_without_preamble_is_read(syntax: str) -> None:
    bare = dicom_bytes(syntax=syntax)
    dataset_only = bare[bare.index(struct.pack("<HH", 8, 0x16)) :]
    parsed = parse(dataset_only, Limits())
    assert read_header(parsed).modality == "DX"
    assert parsed.transfer_syntax_uid == syntax
    assert read_image(dataset_only, 224).shape == read_image(bare, 224).shape


@functools.cache
def object_of(syntax: str) -> bytes:
    return dicom_bytes(syntax=syntax, PatientComments=None)


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless],
)
@given(share=st.floats(0.001, 0.999))
def test_a_truncated_object_is_rejected(syntax: str, share: float) -> None:
    data = object_of(syntax)
    assert reason_of(data[: int(len(data) * share)]) in {
        Reason.TRUNCATED,
        Reason.NOT_DICOM,
        Reason.UNREADABLE_HEADER,
        Reason.UNDECODABLE_PIXELS,
        Reason.MISSING_UID,
        Reason.INVALID_UID,
        Reason.NO_PIXEL_DATA,
        Reason.BAD_PIXEL_DESCRIPTION,
    }


@given(st.integers(132, len(PLAIN) - 1), st.binary(min_size=1, max_size=8))
def test_overwritten_bytes_give_an_image_or_a_reason(position: int, junk: bytes) -> None:
    start = position % 1200 + 132
    data = PLAIN[:start] + junk + PLAIN[start + len(junk) :]
    try:
        read_header(parse(data, Limits()))
        read_image(data, 224)
    except InvalidObject as error:
        assert error.reason in Reason


def test_a_deflate_bomb_is_rejected_at_max_object_bytes() -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(64 << 20)) + deflater.flush()
    head = dicom_bytes(syntax=DeflatedExplicitVRLittleEndian)
    start = _end_of_meta(head)
    limits = Limits(max_object_bytes=1 << 20)
    assert reason_of(head[:start] + bomb, limits) is Reason.INFLATES_TOO_FAR


def _end_of_meta(data: bytes) -> int:
    return 144 + int.from_bytes(data[140:144], "little")


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.MISSING_UID),
        ("", Reason.MISSING_UID),
        ("../../../etc/passwd", Reason.INVALID_UID),
        ("1.2/3", Reason.INVALID_UID),
        ("..", Reason.INVALID_UID),
        (".", Reason.INVALID_UID),
        ("1..2", Reason.INVALID_UID),
        ("1.2.", Reason.INVALID_UID),
        ("1.2\\1.3", Reason.INVALID_UID),
        ("1.2\x003", Reason.INVALID_UID),
        ("1.2\n3", Reason.INVALID_UID),
        ("1." + "2" * 70, Reason.INVALID_UID),
        ("9" * 10_000, Reason.INVALID_UID),
        ("1.2.²", Reason.INVALID_UID),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_invalid_uids_are_rejected(keyword: str, value: str | None, reason: Reason) -> None:
    ds = dataset()
    if value is None:
        delattr(ds, keyword)
    else:
        ds.add_new(keyword, "UI", value)
    data = to_bytes(ds)
    assert reason_of(data) in {reason, Reason.UNREADABLE_HEADER}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PixelData": None}, Reason.NO_PIXEL_DATA),
        ({"Rows": None}, Reason.BAD_PIXEL_DESCRIPTION),
        ({"Rows": 0}, Reason.BAD_PIXEL_DESCRIPTION),
        ({"BitsAllocated": 12}, Reason.BAD_PIXEL_DESCRIPTION),
        ({"SamplesPerPixel": 2}, Reason.BAD_PIXEL_DESCRIPTION),
        ({"Rows": 60000, "Columns": 60000}, Reason.TOO_MANY_PIXELS),
        ({"Rows": 6400}, Reason.TRUNCATED),
        ({"NumberOfFrames": 10}, None),
        ({"HighBit": 16}, None),
        ({"HighBit": 3}, None),
        ({"PixelPaddingValue": None, "Rows": 5, "Columns": 5000}, None),
    ],
    ids=str,
)
def test_pixel_descriptions_are_validated(change: dict[str, Any], reason: Reason | None) -> None:
    data = dicom_bytes(**change)
    if reason is None:  # the first frame is complete
        assert read_image(data, 224).size
    else:
        assert reason_of(data) is reason


def test_an_unsupported_transfer_syntax_is_rejected() -> None:
    ds = dataset(syntax=RLELossless)
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")  # MPEG2
    assert reason_of(to_bytes(ds)) is Reason.UNSUPPORTED_SYNTAX


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1])
def test_a_codestream_of_another_size_is_rejected(syntax: str) -> None:
    """A decoder would allocate what the codestream claims, not what the header claims."""
    assert reason_of(dicom_bytes(syntax=syntax, Rows=100)) is Reason.SIZE_MISMATCH


def test_a_damaged_codestream_gives_an_image_or_a_reason() -> None:
    for syntax in (JPEG2000Lossless, JPEGLSLossless, JPEGLosslessSV1, RLELossless):
        ds = dataset(syntax=syntax)
        damaged = bytearray(ds.PixelData)
        damaged[len(damaged) // 3 : len(damaged) // 3 + 4000] = bytes(4000)
        ds.PixelData = bytes(damaged)
        ds["PixelData"].is_undefined_length = True
        try:
            assert read_image(to_bytes(ds), 224).size
        except InvalidObject as error:
            assert error.reason in {Reason.UNDECODABLE_PIXELS, Reason.TRUNCATED}
