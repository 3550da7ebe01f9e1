"""Regression tests: objects that crashed a decoder, exhausted resources or were displayed wrongly."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.malicious_files import encapsulated
from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.core.reasons import InvalidObject, Reason
from transforms.imaging.codecs import rle
from transforms.imaging.codecs.frame import FrameRequest, NoFastPath, build_frame_request
from transforms.imaging.header import read_header
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.preprocessing import preprocess
from transforms.imaging.read_image import read_image

PIXELS = image(shape=(640, 512))
PIXELS_8 = (PIXELS >> 4).astype(np.uint8)


def preprocessed(data: bytes) -> np.ndarray:
    return preprocess(read_image(data, 224), 224).astype(int)


def reason_of(data: bytes, limits: Limits | None = None) -> Reason:
    with pytest.raises(InvalidObject) as caught:
        read_image(data, 224, limits=limits)
    return caught.value.reason


def with_codestream(codestream: bytes | bytearray, syntax: str, **elements: object) -> bytes:
    return encapsulated(bytes(codestream), syntax, PIXELS_8, **elements)


def test_codestreams_that_crashed_a_codec() -> None:
    """GDCM aborted on grayscale under a color header, Pillow on lossless JPEG in draft mode."""
    color = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    gray = imagecodecs.jpegls_encode(PIXELS)
    found = preprocessed(with_codestream(gray, JPEGLSLossless, **color))
    assert np.array_equal(found, preprocessed(dicom_bytes(PIXELS)))
    lossless = imagecodecs.jpeg8_encode(PIXELS_8, lossless=True, predictor=1)
    data = with_codestream(lossless, JPEGBaseline8Bit)
    try:
        assert np.abs(preprocessed(data) - preprocessed(dicom_bytes(PIXELS_8))).mean() < 1
    except InvalidObject as error:
        assert error.reason is Reason.UNDECODABLE_PIXELS


def test_gdcm_is_never_used() -> None:
    from transforms.imaging.codecs.pydicom_fallback import _decoder

    for syntax in (JPEGBaseline8Bit, JPEGLSLossless, JPEGLosslessSV1, JPEG2000Lossless):
        assert "gdcm" not in _decoder(syntax).available_plugins


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGExtended12Bit, JPEGLSLossless])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_truncated_codestream_is_rejected(syntax: str, share: float) -> None:
    data = dicom_bytes(image(shape=(1600, 1280)), syntax=syntax)
    assert reason_of(data[: int(len(data) * share)]) is Reason.TRUNCATED
    ds = dataset(image(shape=(1600, 1280)), syntax=syntax)
    (stream,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = encapsulate([stream[: int(len(stream) * share)]])
    ds["PixelData"].is_undefined_length = True
    assert reason_of(to_bytes(ds)) is Reason.TRUNCATED


def test_a_window_after_a_negative_rescale_slope_keeps_the_polarity() -> None:
    data = dicom_bytes(
        PIXELS, RescaleSlope="-1", RescaleIntercept="4095", WindowCenter="1500", WindowWidth="3000"
    )
    truth = np.clip(4095.0 - PIXELS, 0, 3000)
    assert np.corrcoef(read_image(data, 640).ravel(), truth.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("missing", ["BitsStored", "PixelRepresentation", "VOILUTFunction"])
def test_a_window_does_not_require_other_elements(missing: str) -> None:
    window = {"WindowCenter": "2000", "WindowWidth": "1000"}
    extra = {"VOILUTFunction": ""} if missing == "VOILUTFunction" else {missing: None}
    ds = dataset(PIXELS, **window)
    expected = read_image(to_bytes(ds), 640)
    for keyword, value in extra.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    assert np.array_equal(read_image(to_bytes(ds), 640), expected)


def voi_lut(descriptor: list[int], data: bytes, vr: str = "OW") -> Dataset:
    item = Dataset()
    item.LUTDescriptor = descriptor
    item.add_new("LUTData", vr, data)
    return item


def test_luts_of_each_encoding_are_applied() -> None:
    ramp = (np.arange(4096) // 16).astype(np.uint16)
    packed = ramp.astype(np.uint8).tobytes()
    for item in (
        voi_lut([4096, 0, 8], ramp.tobytes()),
        voi_lut([4096, 0, 8], packed),
        voi_lut([4096, 0, 12], ramp.tobytes()),
    ):
        ds = dataset(PIXELS, VOILUTSequence=Sequence([item]))
        assert np.array_equal(read_image(to_bytes(ds), 640), ramp[PIXELS].astype(np.float32))
    modality = dataset(PIXELS, ModalityLUTSequence=Sequence([item]))
    assert np.array_equal(read_image(to_bytes(modality), 640), ramp[PIXELS].astype(np.float32))


def test_a_lut_may_have_a_negative_first_value() -> None:
    signed = (PIXELS.astype(np.int32) - 2048).astype(np.int16)
    ramp = (np.arange(4096) // 16).astype(np.uint16)
    item = voi_lut([4096, 0, 8], ramp.tobytes())
    item.add_new("LUTDescriptor", "SS", [4096, -2048, 8])
    ds = dataset(signed, VOILUTSequence=Sequence([item]))
    assert np.array_equal(read_image(to_bytes(ds), 640), ramp[PIXELS].astype(np.float32))


def test_the_window_is_applied_if_the_lut_is_malformed() -> None:
    window = {"WindowCenter": "2000", "WindowWidth": "1000"}
    broken = Sequence([voi_lut([4096, 0, 16], b"\0\0")])
    ds = dataset(PIXELS, VOILUTSequence=broken, **window)
    expected = read_image(dicom_bytes(PIXELS, **window), 640)
    assert np.array_equal(read_image(to_bytes(ds), 640), expected)


def test_big_endian_is_inferred_without_a_transfer_syntax() -> None:
    data = dicom_bytes(PIXELS, syntax=ExplicitVRBigEndian)
    bare = data[data.index(struct.pack(">HH", 8, 0x16)) :]
    assert parse(bare, Limits()).transfer_syntax_uid == ExplicitVRBigEndian
    assert np.array_equal(preprocessed(bare), preprocessed(dicom_bytes(PIXELS)))


def test_header_and_codestream_must_agree() -> None:
    """libjpeg skips bytes between markers, and a JPEG 2000 codestream can claim 1,000 components."""
    stream = bytearray(imagecodecs.jpeg8_encode(PIXELS_8))
    frame = stream.index(b"\xff\xc0")
    stream[frame + 5 : frame + 9] = struct.pack(">2H", 30000, 30000)
    assert reason_of(with_codestream(bytes(stream), JPEGBaseline8Bit)) is Reason.SIZE_MISMATCH
    hidden = bytes(stream[:2]) + b"\0\0\0\0" + bytes(stream[2:])
    assert reason_of(with_codestream(hidden, JPEGBaseline8Bit)) is Reason.UNDECODABLE_PIXELS
    many = bytearray(imagecodecs.jpeg2k_encode(PIXELS_8, codecformat="j2k"))
    many[40:42] = struct.pack(">H", 1000)
    assert reason_of(with_codestream(bytes(many), JPEG2000Lossless)) is Reason.SIZE_MISMATCH


ITEM, DELIMITER = b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"


def with_items(plain: bytes, head: bytes, items: bytes) -> bytes:
    """Insert a sequence before the first element of group 0028."""
    order = ">" if ExplicitVRBigEndian.encode() + b"\0" in plain else "<"
    at = plain.index(struct.pack(order + "HH", 0x28, 2))
    return plain[:at] + head + items + plain[at:]


@pytest.mark.slow
def test_too_many_items_in_a_sequence_of_undefined_length() -> None:
    head = struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    bomb = with_items(dicom_bytes(PIXELS), head, ITEM * 300_000 + DELIMITER)
    assert reason_of(bomb) is Reason.TOO_MANY_ITEMS


def test_too_many_items_in_a_sequence_of_defined_length() -> None:
    """pydicom parses them lazily."""
    head = struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, 8 * 300_000)
    bomb = with_items(dicom_bytes(PIXELS), head, ITEM * 300_000)
    assert reason_of(bomb) is Reason.TOO_MANY_ITEMS


def test_too_many_items_in_big_endian() -> None:
    head = struct.pack(">HH2sHL", 9, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    items = struct.pack(">HHL", 0xFFFE, 0xE000, 0) * 30_000
    end = struct.pack(">HHL", 0xFFFE, 0xE0DD, 0)
    bomb = with_items(dicom_bytes(PIXELS, syntax=ExplicitVRBigEndian), head, items + end)
    assert reason_of(bomb, Limits(max_items=10_000)) is Reason.TOO_MANY_ITEMS


def test_too_many_items_without_an_item_tag() -> None:
    head = struct.pack("<HH2sHL", 9, 0x1001, b"SQ", 0, 0xFFFFFFFF)
    bomb = with_items(dicom_bytes(PIXELS), head, bytes(8 * 30_000) + DELIMITER)
    assert reason_of(bomb, Limits(max_items=10_000)) is Reason.TOO_MANY_ITEMS


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_too_many_items_in_the_file_meta_information(syntax: str) -> None:
    plain = dicom_bytes(PIXELS, syntax=syntax)
    at = plain.index(struct.pack("<HH", 2, 2))
    end = at + 8 + struct.unpack_from("<H", plain, at + 6)[0]
    sequence = struct.pack("<HH2sHL", 2, 2, b"SQ", 0, 8 * 300_000) + ITEM * 300_000
    assert reason_of(plain[:at] + sequence + plain[end:]) is Reason.TOO_MANY_ITEMS


@pytest.mark.slow
def test_too_many_fragments() -> None:
    data = with_codestream(imagecodecs.jpegls_encode(PIXELS_8), JPEGLSLossless)
    bomb = data.replace(DELIMITER, ITEM * 300_000 + DELIMITER)
    assert len(bomb) - len(data) == 8 * 300_000
    assert reason_of(bomb) is Reason.TOO_MANY_ITEMS


def test_item_tags_in_native_pixel_data_are_not_counted() -> None:
    pattern = np.frombuffer(ITEM[:4], "<u2")
    pixels = np.tile(pattern, (1024, 512)).astype(np.uint16)
    pixels[200:800, 200:800] = image(shape=(600, 600))
    assert pixels.tobytes().count(ITEM[:4]) > Limits().max_items
    assert preprocessed(dicom_bytes(pixels, BitsStored=16)).any()


@pytest.mark.slow
def test_a_deflate_bomb_is_rejected_at_max_inflation() -> None:
    head = dicom_bytes(PIXELS, syntax=DeflatedExplicitVRLittleEndian)
    (length,) = struct.unpack_from("<L", head, 140)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(deflater.compress(bytes(1 << 20)) for _ in range(200)) + deflater.flush()
    assert len(bomb) < 1 << 20
    assert reason_of(head[: 144 + length] + bomb) is Reason.INFLATES_TOO_FAR


def test_sums_of_a_very_long_image_do_not_overflow() -> None:
    pixels = np.full((260, 46000), 60000, np.uint16)
    pixels[:, :23000] = 100
    found = preprocessed(dicom_bytes(pixels, BitsStored=16))
    inner = found[0][found[0].any(axis=1)]
    assert (inner[:, :110] == 0).all()
    assert (inner[:, 114:] == 255).all()


def test_a_very_narrow_image_is_decoded() -> None:
    assert preprocessed(dicom_bytes(image(shape=(5000, 10)))).any()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_left_aligned_values_are_shifted(syntax: str) -> None:
    ds = dataset(PIXELS << 4, syntax=syntax, BitsStored=16)
    ds.BitsStored, ds.HighBit = 12, 15
    assert np.array_equal(preprocessed(to_bytes(ds)), preprocessed(dicom_bytes(PIXELS)))


def test_padding_values_outside_bits_stored_or_of_the_other_sign() -> None:
    padded = PIXELS // 2 + 500
    padded[:, :100] = 0xFFFF
    unsigned = read_image(dicom_bytes(padded, PixelPaddingValue=0xFFFF), 640)
    assert (unsigned[:, :100] == unsigned.min()).all()
    signed = (PIXELS // 2 + 500).astype(np.int16)
    signed[:, :100] = -32768
    ds = dataset(signed, BitsStored=16)
    ds.add_new("PixelPaddingValue", "US", 32768)
    found = read_image(to_bytes(ds), 640)
    assert (found[:, :100] == found[:, 100:].min()).all()


def test_8_bit_big_endian_equals_pydicom() -> None:
    path = str(pydicom.data.get_testdata_file("SC_rgb_small_odd_big_endian.dcm"))
    truth = pydicom.dcmread(path).pixel_array @ np.array([0.299, 0.587, 0.114])
    assert np.allclose(read_image(Path(path).read_bytes(), 64), truth, atol=0.5)


def test_lossless_color_jpeg_is_decoded() -> None:
    color = np.stack([PIXELS_8, PIXELS_8 // 2, PIXELS_8 // 3], axis=-1)
    ds = dataset(color)
    ds.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    stream = imagecodecs.jpeg8_encode(color, lossless=True, predictor=1, colorspace="RGB")
    ds.PixelData = encapsulate([bytes(stream)])
    ds["PixelData"].is_undefined_length = True
    assert np.abs(preprocessed(to_bytes(ds)) - preprocessed(dicom_bytes(color))).max() <= 1


def test_photometric_interpretation_is_case_insensitive() -> None:
    ds = dataset(PIXELS, PhotometricInterpretation="Monochrome1 ")
    assert np.array_equal(
        preprocessed(to_bytes(ds)),
        preprocessed(dicom_bytes(PIXELS, PhotometricInterpretation="MONOCHROME1")),
    )


@pytest.mark.parametrize("vr", ["SQ", "PN", "OB"])
def test_non_text_values_do_not_reach_the_header(vr: str) -> None:
    ds = dataset(PIXELS)
    inner = Dataset()
    inner.PatientName = "DOE^JOHN"
    value = {"SQ": Sequence([inner]), "PN": "DOE^JOHN", "OB": b"DOE^JOHN"}[vr]
    ds.add_new("Manufacturer", vr, value)
    ds.add_new("ImageType", vr, value)
    found = read_header(parse(to_bytes(ds), Limits()))
    assert found.manufacturer is None
    assert "DOE" not in str(found)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("WindowCenter", "DS", b"abc\\def "),
        ("WindowCenter", "UN", b"\x01"),
        ("PixelPaddingValue", "US", b"\x01"),
        ("RescaleSlope", "DS", b"one "),
        ("RescaleSlope", "DS", b"1e999 "),
        ("VOILUTSequence", "UN", b"\xff" * 10),
        ("ModalityLUTSequence", "OB", b"\x00" * 10),
    ],
)
def test_malformed_display_elements_are_ignored(keyword: str, vr: str, value: bytes) -> None:
    from pydicom.datadict import tag_for_keyword

    plain = dicom_bytes(PIXELS)
    tag = tag_for_keyword(keyword)
    assert tag is not None
    element = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    element += (
        struct.pack("<HL", 0, len(value)) if vr in ("UN", "OB") else struct.pack("<H", len(value))
    )
    at = plain.index(struct.pack("<HH", 0x7FE0, 0x10))
    assert np.array_equal(
        preprocessed(plain[:at] + element + value + plain[at:]), preprocessed(plain)
    )


@pytest.mark.parametrize("offset", [0, 63, 10**9, 0xFFFFFFFF])
def test_rle_segments_outside_the_frame_do_not_reach_the_codec(
    offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """imagecodecs would read out of bounds."""
    monkeypatch.setattr(imagecodecs, "dicomrle_decode", lambda *a, **k: pytest.fail("codec called"))
    with pytest.raises(NoFastPath):
        rle.decode(rle_request(struct.pack("<16L", 2, 64, offset, *[0] * 13) + b"\x81\0" * 1000))


def test_rle_with_more_segments_than_byte_planes() -> None:
    half = imagecodecs.packbits_encode(bytes(PIXELS.size // 2))
    offsets = [64 + number * len(half) for number in range(4)]
    with pytest.raises(NoFastPath):
        rle.decode(rle_request(struct.pack("<16L", 4, *offsets, *[0] * 11) + half * 4))


def test_rle_segments_of_the_wrong_length() -> None:
    """Even if their total is right, the short one would expose uninitialized memory."""
    size = PIXELS.size
    planes = [imagecodecs.packbits_encode(bytes(size + more)) for more in (2, -2)]
    frame = struct.pack("<16L", 2, 64, 64 + len(planes[0]), *[0] * 13) + b"".join(planes)
    with pytest.raises(NoFastPath):
        rle.decode(rle_request(frame))


def rle_request(frame: bytes) -> FrameRequest:
    ds = dataset(PIXELS, syntax=RLELossless)
    ds.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
    return build_frame_request(parse(to_bytes(ds), Limits()), 1, 224, Limits())
