"""An element whose VR no one knows does not hide the elements after it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tests.synthetic import dataset, image, to_bytes
from transforms.core.reasons import InvalidObject, Reason
from transforms.imaging.header import Header, read_header
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import read_image
from transforms.imaging.unknown_vr import KNOWN_VRS

PIXELS = image(shape=(96, 64))
SYNTAXES = [
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
]
FORMS = ("short", "long", "implicit")
vrs = st.binary(min_size=2, max_size=2).filter(lambda vr: vr not in KNOWN_VRS)
values = st.binary(max_size=40).map(lambda value: value[: len(value) // 2 * 2])


def order_of(syntax: str) -> str:
    return ">" if syntax == ExplicitVRBigEndian else "<"


def plain(syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    item = Dataset()
    item.CodeValue = "T-1"
    item.CodeMeaning = "x"
    return to_bytes(
        dataset(
            PIXELS,
            syntax=syntax,
            AnatomicRegionSequence=Sequence([item]),
            BodyPartExamined="CHEST",
            PatientAge="045Y",
            **elements,
        )
    )


def element(tag: int, vr: bytes, value: bytes, form: str, order: str) -> bytes:
    """Return an element with an unknown VR and a length of 16 or of 32 bits, or without a VR."""
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if form == "short":
        return head + vr + struct.pack(order + "H", len(value)) + value
    if form == "long":
        return head + vr + struct.pack(order + "HL", 0, len(value)) + value
    return head + struct.pack(order + "L", len(value)) + value


def inserted(data: bytes, junk: bytes, before: int, syntax: str) -> bytes:
    """Return an object with bytes inserted before an element, in the inflated data set."""
    tag = struct.pack(order_of(syntax) + "HH", before >> 16, before & 0xFFFF)
    if syntax == DeflatedExplicitVRLittleEndian:
        (length,) = struct.unpack_from("<L", data, 140)
        head, body = data[: 144 + length], zlib.decompress(data[144 + length :], -zlib.MAX_WBITS)
        at = body.index(tag)
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return head + deflater.compress(body[:at] + junk + body[at:]) + deflater.flush()
    at = data.index(tag, 132)
    return data[:at] + junk + data[at:]


def described(data: bytes) -> Header:
    return read_header(parse(data, Limits()))


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: UID(syntax).name)
@given(
    vr=vrs,
    value=values,
    form=st.sampled_from(FORMS),
    place=st.sampled_from(
        [(0x00080001, 0x00080016), (0x00191001, 0x00280002), (0x00290010, 0x7FE00010)]
    ),
)
def test_the_other_elements_are_read(
    syntax: str, vr: bytes, value: bytes, form: str, place: tuple[int, int]
) -> None:
    tag, before = place
    data = plain(syntax)
    junk = element(tag, vr, value, form, order_of(syntax))
    changed = inserted(data, junk, before, syntax)
    assert described(changed) == described(data)
    assert np.array_equal(read_image(changed, 192), read_image(data, 192))


@given(vr=vrs, value=values, form=st.sampled_from(FORMS[:2]), count=st.integers(2, 4))
def test_consecutive_elements_of_unknown_vr(vr: bytes, value: bytes, form: str, count: int) -> None:
    junk = b"".join(element(0x00191001 + n, vr, value, form, "<") for n in range(count))
    assume(element(0x00191001, vr, value, form, "<")[4:6] not in KNOWN_VRS)
    changed = inserted(plain(), junk, 0x00280002, ExplicitVRLittleEndian)
    assert described(changed) == described(plain())


@pytest.mark.parametrize("is_undefined", [True, False])
@given(vr=vrs, value=values, form=st.sampled_from(FORMS[:2]))
def test_in_an_item_of_a_sequence(is_undefined: bool, vr: bytes, value: bytes, form: str) -> None:
    inner = element(0x00080102, vr, value, form, "<")
    known = struct.pack("<HH2sH", 8, 0x0104, b"LO", 2) + b"x "
    body = struct.pack("<HH2sH", 8, 0x0100, b"SH", 2) + b"T " + inner + known
    if is_undefined:
        item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + body + b"\xfe\xff\x0d\xe0\0\0\0\0"
        sequence = struct.pack("<HH2sHL", 0x19, 0x1001, b"SQ", 0, 0xFFFFFFFF) + item
        sequence += b"\xfe\xff\xdd\xe0\0\0\0\0"
    else:
        item = b"\xfe\xff\x00\xe0" + struct.pack("<L", len(body)) + body
        sequence = struct.pack("<HH2sHL", 0x19, 0x1001, b"SQ", 0, len(item)) + item
    changed = inserted(plain(), sequence, 0x00280002, ExplicitVRLittleEndian)
    assert described(changed) == described(plain())


@given(vr=vrs, is_long=st.booleans())
def test_an_element_of_the_dictionary_keeps_its_value(vr: bytes, is_long: bool) -> None:
    """Rows with an unknown VR are Rows."""
    data = plain()
    at = data.index(struct.pack("<HH2s", 0x28, 0x10, b"US"))
    changed = data[: at + 4] + vr + data[at + 6 :]
    assert described(changed) == described(data)
    at = data.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))
    changed = data[: at + 4] + vr + data[at + 6 :]
    assert np.array_equal(read_image(changed, 192), read_image(data, 192))


@given(vr=vrs, value=values, form=st.sampled_from(FORMS[:2]))
def test_in_the_file_meta_information(vr: bytes, value: bytes, form: str) -> None:
    data = plain()
    junk = element(0x00020011, vr, value, form, "<")
    at = data.index(struct.pack("<HH", 2, 0x12))
    assert described(data[:at] + junk + data[at:]) == described(data)


def test_a_sequence_of_undefined_length_without_a_known_vr() -> None:
    item = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    junk = struct.pack("<HH2sHL", 0x19, 0x1001, b"??", 0, 0xFFFFFFFF) + item
    changed = inserted(plain(), junk, 0x00280002, ExplicitVRLittleEndian)
    assert described(changed) == described(plain())


def test_a_length_that_is_not_clear_is_not_called_truncated() -> None:
    junk = struct.pack("<HH2sH", 0x19, 0x1001, b"??", 0xFFF0) + b"ABCD"
    changed = inserted(plain(), junk, 0x00280002, ExplicitVRLittleEndian)
    with pytest.raises(InvalidObject) as caught:
        parse(changed, Limits())
    assert caught.value.reason is Reason.UNREADABLE_HEADER


def test_an_object_without_unknown_vrs_is_not_copied() -> None:
    data = plain()
    pixels = parse(data, Limits()).pixels
    assert pixels is not None
    assert pixels.buffer.obj is data


@pytest.mark.filterwarnings("ignore:Expected explicit VR:UserWarning")
def test_file_meta_information_without_vrs_is_left_to_the_parser() -> None:
    """Some old senders write it in implicit VR (PS3.10 section 7.1 asks for explicit VR)."""
    data = plain()
    (length,) = struct.unpack_from("<L", data, 140)
    meta = dcmread(io.BytesIO(data)).file_meta
    written = DicomBytesIO()
    written.is_little_endian = written.is_implicit_VR = True
    write_dataset(written, meta)
    assert written.getvalue()[4:6] not in KNOWN_VRS
    changed = data[:132] + written.getvalue() + data[144 + length :]
    assert described(changed) == described(data)
