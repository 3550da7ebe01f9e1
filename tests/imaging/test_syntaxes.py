"""The same film in every transfer syntax is the same film."""

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
from transforms.imaging.codecs import full
from transforms.imaging.codecs.frame import frame_request
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.preprocessing import preprocess
from transforms.imaging.presentation import decode_frame, read_image

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
"""Lossy streams, and wavelet reduction in the place of averaging, may differ by this mean."""


def thumbnail(data: bytes) -> np.ndarray:
    return preprocess(read_image(data, SIZE), SIZE).astype(int)


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    return thumbnail(dicom_bytes(syntax=ExplicitVRLittleEndian))


@pytest.mark.parametrize("syntax", EXACT, ids=lambda uid: UID(uid).name)
def test_lossless_encodings_give_the_very_same_input(syntax: str, reference: np.ndarray) -> None:
    assert np.array_equal(thumbnail(dicom_bytes(syntax=syntax)), reference)


@pytest.mark.parametrize("syntax", NEAR, ids=lambda uid: UID(uid).name)
def test_other_encodings_stay_within_the_stated_tolerance(
    syntax: str, reference: np.ndarray
) -> None:
    assert np.abs(thumbnail(dicom_bytes(syntax=syntax)) - reference).mean() < NEAR_MEAN_LEVELS


def test_the_full_decode_of_a_stream_that_is_not_read_says_so() -> None:
    ds = dataset(syntax=JPEGLosslessSV1)
    stream = bytearray(ds.PixelData)
    at = stream.index(b"\xff\xc4")  # the Huffman table
    stream[at + 4 : at + 20] = b"\xff" * 16
    ds.PixelData = bytes(stream)
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(InvalidObject) as caught:
        read_image(to_bytes(ds), SIZE)
    assert caught.value.reason is Reason.UNDECODABLE_PIXELS


def test_baseline_jpeg_of_eight_bits() -> None:
    pixels = (image() >> 4).astype(np.uint8)
    plain = thumbnail(dicom_bytes(pixels))
    jpeg = thumbnail(dicom_bytes(pixels, syntax=JPEGBaseline8Bit))
    assert np.abs(jpeg - plain).mean() < NEAR_MEAN_LEVELS


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGBaseline8Bit, ExplicitVRLittleEndian])
def test_a_reduced_decoder_brings_fewer_pixels_than_the_frame_has(syntax: str) -> None:
    pixels = image(shape=(1600, 1280))
    if syntax == JPEGBaseline8Bit:
        pixels = (pixels >> 4).astype(np.uint8)
    request = frame_request(parse(dicom_bytes(pixels, syntax=syntax), Limits()), 1, SIZE, Limits())
    stored, reduced = decode_frame(request)
    assert reduced
    assert SIZE <= max(stored.values.shape) <= 2 * SIZE


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize(
    ("syntax", "signed"),
    [
        (ExplicitVRLittleEndian, False),
        (ExplicitVRLittleEndian, True),
        (JPEG2000Lossless, False),
        (JPEG2000Lossless, True),
        (JPEGLSLossless, False),  # there is no signed JPEG-LS encoder to test with
    ],
)
def test_stored_values_are_those_that_pydicom_decodes(bits: int, signed: bool, syntax: str) -> None:
    pixels = image(bits=bits, shape=(448, 448))
    if signed:
        pixels = (pixels.astype(np.int32) - (1 << bits - 1)).astype(np.int16)
    ds = dataset(pixels, syntax=syntax, BitsStored=bits)
    data = to_bytes(ds)
    request = frame_request(parse(data, Limits()), 1, SIZE, Limits())
    stored, reduced = decode_frame(request)
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).pixel_array
    averaged = whole.reshape(224, 2, 224, 2).mean(axis=(1, 3))
    tolerance = 0.5 if syntax != JPEG2000Lossless else 0.02 * (1 << bits)
    assert reduced
    assert np.abs(stored.values - averaged).mean() <= tolerance
    assert np.abs(stored.values.mean() - whole.mean()) <= tolerance


def test_bits_outside_bits_stored_are_dropped() -> None:
    pixels = image(shape=(448, 448))
    clean = thumbnail(dicom_bytes(pixels))
    overlaid = pixels | (np.indices(pixels.shape)[1] % 7 == 0).astype(np.uint16) << 15
    assert np.array_equal(thumbnail(dicom_bytes(overlaid)), clean)


def test_high_bit_shifts_the_value() -> None:
    pixels = image(shape=(448, 448))
    shifted = dataset(pixels << 4)
    shifted.HighBit = 15
    assert np.array_equal(thumbnail(to_bytes(shifted)), thumbnail(dicom_bytes(pixels)))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_the_frame_asked_for_is_decoded(syntax: str) -> None:
    first, second = image(1, (256, 256)), image(2, (256, 256))
    data = dicom_bytes(np.stack([first, second]), syntax=syntax)
    whole = pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).pixel_array
    assert np.array_equal(read_image(data, 256), whole[0].astype(np.float32))
    assert np.array_equal(read_image(data, 256, frame_number=2), whole[1].astype(np.float32))
    beyond = read_image(data, 256, frame_number=9)
    assert np.array_equal(beyond, whole[1].astype(np.float32))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_colour_becomes_luma(syntax: str) -> None:
    gray = (image(shape=(300, 256)) >> 4).astype(np.uint8)
    colour = np.stack([gray, gray, gray], axis=-1)
    expected = preprocess(gray, SIZE).astype(int)
    assert np.abs(thumbnail(dicom_bytes(colour, syntax=syntax)) - expected).max() <= 1


def test_ybr_and_palette_become_luma() -> None:
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


def test_the_full_decode_agrees_with_the_fast_one() -> None:
    data = dicom_bytes(syntax=JPEGLSLossless)
    request = frame_request(parse(data, Limits()), 1, SIZE, Limits())
    fast, reduced = decode_frame(request)
    assert reduced
    assert np.array_equal(full.decode(request).values, fast.values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_rle_is_read_fast_and_as_pydicom_reads_it(dtype: type) -> None:
    pixels = image().astype(np.int32)
    pixels = (pixels >> 4 if dtype is np.uint8 else pixels - 2000 * (dtype is np.int16)).astype(
        dtype
    )
    parsed = parse(dicom_bytes(pixels, syntax=RLELossless), Limits())
    request = frame_request(parsed, 1, SIZE, Limits())
    stored, is_fast = decode_frame(request)
    assert is_fast
    assert np.array_equal(stored.values, full.decode(request).values)
