"""Every transfer syntax of one image gives the same thumbnail, within the stated tolerance."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.core.reasons import InvalidObject, Reason
from transforms.imaging.codecs import pydicom_fallback
from transforms.imaging.codecs.frame import build_frame_request
from transforms.imaging.codecs.registry import decode_frame
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.preprocessing import preprocess
from transforms.imaging.read_image import read_image

SIZE = 224
EXACT = (
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)
NEAR = (JPEGLSNearLossless, JPEGExtended12Bit, JPEG2000Lossless, JPEG2000, HTJ2KLossless)
NEAR_MEAN_LEVELS = 1.0
"""Mean difference allowed for lossy codestreams and for wavelet reduction instead of averaging."""


def thumbnail(data: bytes) -> np.ndarray:
    return preprocess(read_image(data, SIZE), SIZE).astype(int)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return thumbnail(dicom_bytes(syntax=ExplicitVRLittleEndian))


@pytest.mark.parametrize("syntax", EXACT, ids=lambda uid: UID(uid).name)
def test_lossless_syntaxes_give_an_identical_thumbnail(syntax: str, reference: np.ndarray) -> None:
    assert np.array_equal(thumbnail(dicom_bytes(syntax=syntax)), reference)


@pytest.mark.parametrize("syntax", NEAR, ids=lambda uid: UID(uid).name)
def test_other_syntaxes_are_within_tolerance(syntax: str, reference: np.ndarray) -> None:
    assert np.abs(thumbnail(dicom_bytes(syntax=syntax)) - reference).mean() < NEAR_MEAN_LEVELS


def test_a_codestream_that_no_decoder_reads_is_undecodable() -> None:
    ds = dataset(syntax=JPEGLosslessSV1)
    stream = bytearray(ds.PixelData)
    at = stream.index(b"\xff\xc4")  # the Huffman table
    stream[at + 4 : at + 20] = b"\xff" * 16
    ds.PixelData = bytes(stream)
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(InvalidObject) as caught:
        read_image(to_bytes(ds), SIZE)
    assert caught.value.reason is Reason.UNDECODABLE_PIXELS


def test_baseline_jpeg_is_within_tolerance() -> None:
    pixels = (image() >> 4).astype(np.uint8)
    plain = thumbnail(dicom_bytes(pixels))
    jpeg = thumbnail(dicom_bytes(pixels, syntax=JPEGBaseline8Bit))
    assert np.abs(jpeg - plain).mean() < NEAR_MEAN_LEVELS


@pytest.mark.parametrize(
    "syntax", [JPEG2000Lossless, HTJ2KLossless, JPEGBaseline8Bit, ExplicitVRLittleEndian]
)
def test_frames_are_decoded_at_reduced_resolution(syntax: str) -> None:
    pixels = image(shape=(1600, 1280))
    if syntax == JPEGBaseline8Bit:
        pixels = (pixels >> 4).astype(np.uint8)
    request = build_frame_request(
        parse(dicom_bytes(pixels, syntax=syntax), Limits()), 1, SIZE, Limits()
    )
    stored, used_fallback = decode_frame(request)
    assert not used_fallback
    assert SIZE <= max(stored.values.shape) <= 2 * SIZE


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize(
    ("syntax", "signed"),
    [
        (ExplicitVRLittleEndian, False),
        (ExplicitVRLittleEndian, True),
        (JPEG2000Lossless, False),
        (JPEG2000Lossless, True),
        (HTJ2KLossless, False),  # no encoder for other precisions of signed HTJ2K
        (JPEGLSLossless, False),  # no encoder supports signed JPEG-LS
    ],
)
def test_stored_values_equal_those_of_pydicom(bits: int, signed: bool, syntax: str) -> None:
    pixels = image(bits=bits, shape=(448, 448))
    if signed:
        pixels = (pixels.astype(np.int32) - (1 << bits - 1)).astype(np.int16)
    ds = dataset(pixels, syntax=syntax, BitsStored=bits)
    data = to_bytes(ds)
    request = build_frame_request(parse(data, Limits()), 1, SIZE, Limits())
    stored, used_fallback = decode_frame(request)
    expected = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).pixel_array
    averaged = expected.reshape(224, 2, 224, 2).mean(axis=(1, 3))
    is_wavelet = syntax in (JPEG2000Lossless, HTJ2KLossless)
    tolerance = 0.02 * (1 << bits) if is_wavelet else 0.5
    assert not used_fallback
    assert np.abs(stored.values - averaged).mean() <= tolerance
    assert np.abs(stored.values.mean() - expected.mean()) <= tolerance


def test_bits_outside_bits_stored_are_ignored() -> None:
    pixels = image(shape=(448, 448))
    clean = thumbnail(dicom_bytes(pixels))
    overlaid = pixels | (np.indices(pixels.shape)[1] % 7 == 0).astype(np.uint16) << 15
    assert np.array_equal(thumbnail(dicom_bytes(overlaid)), clean)


def test_values_are_shifted_by_high_bit() -> None:
    pixels = image(shape=(448, 448))
    shifted = dataset(pixels << 4)
    shifted.HighBit = 15
    assert np.array_equal(thumbnail(to_bytes(shifted)), thumbnail(dicom_bytes(pixels)))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_the_requested_frame_is_decoded(syntax: str) -> None:
    first, second = image(1, (256, 256)), image(2, (256, 256))
    data = dicom_bytes(np.stack([first, second]), syntax=syntax)
    expected = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).pixel_array
    assert np.array_equal(read_image(data, 256), expected[0].astype(np.float32))
    assert np.array_equal(read_image(data, 256, frame_number=2), expected[1].astype(np.float32))
    beyond = read_image(data, 256, frame_number=9)
    assert np.array_equal(beyond, expected[1].astype(np.float32))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_rgb_is_converted_to_luma(syntax: str) -> None:
    gray = (image(shape=(300, 256)) >> 4).astype(np.uint8)
    color = np.stack([gray, gray, gray], axis=-1)
    expected = preprocess(gray, SIZE).astype(int)
    assert np.abs(thumbnail(dicom_bytes(color, syntax=syntax)) - expected).max() <= 1


def test_ybr_and_palette_are_converted_to_luma() -> None:
    gray = (image(shape=(300, 256)) >> 4).astype(np.uint8)
    expected = preprocess(gray, SIZE).astype(int)
    neutral = np.full_like(gray, 128)
    ybr = dicom_bytes(
        np.stack([gray, neutral, neutral], axis=-1), PhotometricInterpretation="YBR_FULL"
    )
    assert np.abs(thumbnail(ybr) - expected).max() <= 1
    ramp = (np.arange(256, dtype=np.uint16) * 257).tobytes()
    palette = dataset(gray, PhotometricInterpretation="PALETTE COLOR")
    for channel in ("Red", "Green", "Blue"):
        setattr(palette, f"{channel}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{channel}PaletteColorLookupTableData", ramp)
    assert np.abs(thumbnail(to_bytes(palette)) - expected).max() <= 1


def test_the_fallback_equals_the_fast_decoder() -> None:
    data = dicom_bytes(syntax=JPEGLSLossless)
    request = build_frame_request(parse(data, Limits()), 1, SIZE, Limits())
    fast, used_fallback = decode_frame(request)
    assert not used_fallback
    assert np.array_equal(pydicom_fallback.decode(request).values, fast.values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_rle_equals_the_fallback(dtype: type) -> None:
    pixels = image().astype(np.int32)
    pixels = (pixels >> 4 if dtype is np.uint8 else pixels - 2000 * (dtype is np.int16)).astype(
        dtype
    )
    parsed = parse(dicom_bytes(pixels, syntax=RLELossless), Limits())
    request = build_frame_request(parsed, 1, SIZE, Limits())
    stored, used_fallback = decode_frame(request)
    assert not used_fallback
    assert np.array_equal(stored.values, pydicom_fallback.decode(request).values)
