"""Properties of stored values over transfer syntaxes, sizes and header elements.

What a reduced or compressed decode reads is what a full decode reads; bits outside Bits Stored and
mistakes of the header about a codestream never reach the network.
"""

from __future__ import annotations

import functools
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
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
from transforms.imaging.codecs import codestream, jpeg2000
from transforms.imaging.codecs.frame import build_frame_request
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.read_image import decode_inputs, read_image

SIDE = 48
MEAN_LEVELS = 1.0
"""Mean difference allowed between a reduced and a full decode; 0 where both average the same values."""
SHAPES = [(40, 31), (130, 97), (263, 200), (331, 410)]
NATIVE = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
LOSSLESS = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless)
DCT = (JPEGBaseline8Bit, JPEGExtended12Bit)


def thumbnail(data: bytes) -> np.ndarray:
    found, _ = decode_inputs(parse(data, Limits()), SIDE, limits=Limits())
    return found.astype(int)


@functools.cache
def picture(shape: tuple[int, int], bits: int) -> np.ndarray:
    """Return a cached `image`; do not write to it."""
    return image(seed=shape[0], shape=shape, bits=bits)


def encode(pixels: np.ndarray, syntax: str, precision: int) -> bytes:
    """Return a codestream of this precision."""
    if syntax == JPEGBaseline8Bit:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()
    if syntax == JPEGExtended12Bit:
        return bytes(imagecodecs.jpeg8_encode(pixels, level=98, bitspersample=precision))
    if syntax == JPEGLosslessSV1:
        return bytes(
            imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=precision)
        )
    if syntax == JPEGLSLossless:
        return bytes(imagecodecs.jpegls_encode(pixels, out=bytearray(4 * pixels.nbytes + 1024)))
    if syntax == HTJ2KLossless:
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=True))
    return bytes(
        imagecodecs.jpeg2k_encode(
            pixels,
            codecformat="j2k",
            reversible=syntax == JPEG2000Lossless,
            level=None if syntax == JPEG2000Lossless else 60,
            bitspersample=None if precision in (8, 16) else precision,
        )
    )


def compressed(stream: bytes, syntax: str, like: np.ndarray, **elements: Any) -> bytes:
    """Return an object with this codestream and the header of an object with the pixels `like`."""
    ds = dataset(like, **elements)
    ds.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return to_bytes(ds)


def native(pixels: np.ndarray, **elements: Any) -> bytes:
    return to_bytes(dataset(pixels, **elements))


def bordered(pixels: np.ndarray, border: int, value: int) -> np.ndarray:
    """Return pixels of which `border` rows and columns on each side are padding, and no others."""
    padded = np.where(pixels == value, value + (1 if value == 0 else -1), pixels)
    mask = np.ones(pixels.shape[:2], bool)
    mask[border:-border, border:-border] = False
    padded[mask] = value
    return padded.astype(pixels.dtype)


# A codestream and its full decode


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEG2000, *DCT])
@settings(max_examples=25)
@given(
    shape=st.sampled_from(SHAPES),
    border=st.sampled_from([0, 1, 2, 9]),
    bright=st.booleans(),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    window=st.booleans(),
)
def test_a_codestream_gives_the_values_of_its_full_decode(
    syntax: str,
    shape: tuple[int, int],
    border: int,
    bright: bool,
    photometric: str,
    window: bool,
) -> None:
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    pixels = picture(shape, bits)
    elements: dict[str, Any] = {"PhotometricInterpretation": photometric, "BitsStored": bits}
    if window:
        elements |= {"WindowCenter": str(1 << bits - 1), "WindowWidth": str(1 << bits)}
    if border:
        elements["PixelPaddingValue"] = ((1 << bits) - 1) * bright
        pixels = bordered(pixels, border, elements["PixelPaddingValue"])
    if bits == 8:
        pixels = pixels.astype(np.uint8)
    stream = encode(pixels, syntax, bits)
    data = compressed(stream, syntax, pixels, **elements)
    if syntax == JPEGExtended12Bit:  # pydicom has no decoder
        full = imagecodecs.jpeg8_decode(stream)
    else:
        is_lossy = syntax in (JPEG2000, JPEGBaseline8Bit)
        full = pydicom.dcmread(BytesIO(data)).pixel_array if is_lossy else pixels
    expected = thumbnail(native(full, **elements))
    difference = np.abs(thumbnail(data) - expected)
    is_exact = syntax in (JPEGLosslessSV1, JPEGLSLossless, JPEGExtended12Bit)
    assert difference.mean() <= (0.05 if is_exact else MEAN_LEVELS)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless, JPEGBaseline8Bit])
@settings(max_examples=30)
@given(rows=st.integers(100, 460), columns=st.integers(100, 460))
def test_a_reduced_decode_covers_the_same_area(syntax: str, rows: int, columns: int) -> None:
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    pixels = picture((460, 460), bits)[:rows, :columns].copy()
    pixels = pixels.astype(np.uint8) if bits == 8 else pixels
    reduced = read_image(compressed(encode(pixels, syntax, bits), syntax, pixels), SIDE)
    full = read_image(native(pixels), SIDE)
    assert reduced.shape == full.shape
    assert np.abs(reduced - full).mean() <= 0.02 * np.ptp(full)


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless])
@settings(max_examples=30)
@given(
    shape=st.sampled_from(SHAPES),
    bits=st.integers(8, 16),
    signed=st.booleans(),
    padding=st.one_of(st.none(), st.tuples(st.integers(0, 255), st.integers(0, 40))),
)
def test_uncompressed_pixels_are_averaged_without_padding(
    syntax: str,
    shape: tuple[int, int],
    bits: int,
    signed: bool,
    padding: tuple[int, int] | None,
) -> None:
    """Compared with a plain implementation."""
    pixels = picture(shape, bits).copy()
    mask = np.zeros(shape, bool)
    elements: dict[str, Any] = {"BitsStored": bits}
    if padding:
        value, limit = padding[0], padding[0] + padding[1]
        pixels[-shape[0] // 3 :, : shape[1] // 2] = limit
        mask = (pixels >= value) & (pixels <= limit)
        if signed:
            value, limit = value - (1 << bits - 1), limit - (1 << bits - 1)
        elements |= {"PixelPaddingValue": value, "PixelPaddingRangeLimit": limit}
    values = pixels.astype(np.int32) - (1 << bits - 1) * signed
    stored = values.astype(np.int16 if signed else np.uint16)
    ds = dataset(stored, syntax=syntax, BitsStored=16)
    ds.BitsStored, ds.HighBit = bits, bits - 1
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if padding:
            ds.add_new(keyword, "SS" if signed else "US", elements[keyword])
    found = read_image(to_bytes(ds), SIDE)

    factor = max(1, max(shape) // SIDE)
    rows, columns = shape[0] // factor, shape[1] // factor
    blocks = (rows, factor, columns, factor)
    area = np.s_[: rows * factor, : columns * factor]
    counts = (~mask[area]).reshape(blocks).sum(axis=(1, 3))
    sums = np.where(mask, 0, values)[area].reshape(blocks).sum(axis=(1, 3))
    means = sums / np.maximum(counts, 1)
    expected = np.where(counts == 0, means[counts > 0].min(), means)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-2)


# Bits outside Bits Stored


def garbage(shape: tuple[int, ...], high_bit: int, bits: int, seed: int) -> np.ndarray:
    """Return random bits outside Bits Stored, uint16."""
    stored = ((1 << bits) - 1) << high_bit + 1 - bits
    random = np.random.default_rng(seed).integers(0, 1 << 16, shape, dtype=np.uint16)
    return random & np.uint16(0xFFFF ^ stored)


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, *LOSSLESS])
@settings(max_examples=20)
@given(
    bits=st.integers(8, 15),
    shift=st.integers(0, 8),
    signed=st.booleans(),
    color=st.booleans(),
    shape=st.sampled_from(SHAPES[:3]),
    padding=st.booleans(),
    seed=st.integers(0, 99),
)
def test_bits_outside_bits_stored_never_matter(
    syntax: str,
    bits: int,
    shift: int,
    signed: bool,
    color: bool,
    shape: tuple[int, int],
    padding: bool,
    seed: int,
) -> None:
    signed, shift = signed and not color, min(shift, 16 - bits)
    high_bit = bits - 1 + shift
    clean = picture(shape, bits)
    elements: dict[str, Any] = {"BitsStored": bits}
    if padding and not color and not shift:
        clean = bordered(clean, 7, 0)
        elements["PixelPaddingValue"] = 0
    clean = np.stack([clean, clean // 2, clean // 3], -1) if color else clean
    reference = clean
    if signed:
        reference = ((clean.astype(np.int32) ^ 1 << bits - 1) - (1 << bits - 1)).astype(np.int16)
    expected = thumbnail(native(reference, **elements))
    dirty = (clean << shift).astype(np.uint16) | garbage(clean.shape, high_bit, bits, seed)
    dirty = dirty.view(np.int16) if signed else dirty
    if syntax in LOSSLESS:
        stream = encode(dirty.view(np.uint16), syntax, 16)
        ds = pydicom.dcmread(BytesIO(compressed(stream, syntax, dirty, **elements)))
    else:
        ds = dataset(dirty, syntax=syntax, **elements | {"BitsStored": 16})
    ds.BitsStored, ds.HighBit = bits, high_bit
    assert np.array_equal(thumbnail(to_bytes(ds)), expected)


def test_overlays_in_the_high_bits_of_jpeg_2000_are_not_seen() -> None:
    pixels = picture((331, 410), 12)
    stripes = (np.indices(pixels.shape)[1] // 40 % 2).astype(np.uint16)
    expected = thumbnail(native(pixels))
    for bit in range(12, 16):
        stream = encode(pixels | stripes << bit, JPEG2000Lossless, 16)
        data = compressed(stream, JPEG2000Lossless, pixels)
        assert np.array_equal(thumbnail(data), expected)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, HTJ2KLossless])
def test_unused_bits_that_are_zero_do_not_need_a_full_decode(syntax: str) -> None:
    """Several encoders of 12 bits write codestreams of 16."""
    pixels = picture((1310, 970), 12)
    data = compressed(encode(pixels, syntax, 16), syntax, pixels)
    request = build_frame_request(parse(data, Limits()), 1, SIDE, Limits())
    reduced = jpeg2000.decode(request)
    full = codestream.decode(request)
    assert reduced.values.shape == full.values.shape
    assert np.abs(reduced.values - full.values).mean() < 0.01 * (1 << 12)


def test_overshoot_of_wavelets_is_not_taken_for_unused_bits() -> None:
    pixels = np.zeros((1310, 970), np.uint16)
    pixels[300:700, 200:600] = 4095
    of_16_bits, of_12_bits = (
        jpeg2000.decode(build_frame_request(parse(data, Limits()), 1, SIDE, Limits()))
        for bits in (16, 12)
        for data in [compressed(encode(pixels, JPEG2000Lossless, bits), JPEG2000Lossless, pixels)]
    )
    assert np.array_equal(of_16_bits.values, of_12_bits.values)


def test_an_overlay_of_the_lowest_unused_bit_on_black_is_not_seen() -> None:
    pixels = np.minimum(picture((1310, 970), 12), 3000)
    pixels[:200, :200] = 0
    overlay = np.zeros_like(pixels)
    overlay[40:140, 40:140] = 1 << 12
    stream = encode(pixels | overlay, JPEG2000Lossless, 16)
    expected = thumbnail(native(pixels))
    assert np.array_equal(thumbnail(compressed(stream, JPEG2000Lossless, pixels)), expected)


def test_noise_above_bits_stored_is_clipped() -> None:
    """It wrapped to black in bright areas."""
    pixels = np.minimum(picture((130, 97), 10).astype(np.uint32) * 2, 1023).astype(np.uint16)
    stream = bytes(imagecodecs.jpeg8_encode(pixels, level=60, bitspersample=12))
    assert imagecodecs.jpeg8_decode(stream).max() > 1023
    data = compressed(stream, JPEGExtended12Bit, pixels, BitsStored=10)
    expected = thumbnail(native(pixels, BitsStored=10))
    assert np.abs(thumbnail(data) - expected).mean() < 2


def test_a_padding_value_within_bits_stored_is_compared_without_the_others() -> None:
    pixels = bordered(picture((130, 97), 12), 20, 100)
    dirty = pixels | garbage(pixels.shape, 11, 12, 5)
    elements = {"PixelPaddingValue": 100}
    assert np.array_equal(
        thumbnail(native(dirty, **elements)), thumbnail(native(pixels, **elements))
    )


# Precision, sign and components of the codestream


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGBaseline8Bit, RLELossless])
@settings(max_examples=20)
@given(
    bits=st.integers(8, 16),
    shape=st.sampled_from(SHAPES),
    padding=st.booleans(),
    color=st.booleans(),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
)
def test_an_8_bit_codestream_under_bits_allocated_16(
    syntax: str,
    bits: int,
    shape: tuple[int, int],
    padding: bool,
    color: bool,
    photometric: str,
) -> None:
    pixels = picture(shape, 8).astype(np.uint8)
    color = color and syntax != RLELossless
    elements: dict[str, Any] = {}
    if color:
        pixels = np.stack([pixels, pixels, pixels], -1)
        is_ybr = syntax == JPEGBaseline8Bit
        elements["PhotometricInterpretation"] = "YBR_FULL_422" if is_ybr else "RGB"
    else:
        elements["PhotometricInterpretation"] = photometric
    if padding:
        elements["PixelPaddingValue"] = 0
        pixels = pixels if color else bordered(pixels, 11, 0)
    if syntax == RLELossless:
        (stream,) = pydicom.encaps.generate_frames(
            dataset(pixels, syntax=RLELossless).PixelData, number_of_frames=1
        )
    else:
        stream = encode(pixels, syntax, 8)
    data = compressed(stream, syntax, pixels.astype(np.uint16), BitsStored=bits, **elements)
    same = dict(elements, PhotometricInterpretation="RGB") if color else elements
    if syntax == JPEGBaseline8Bit and not color:
        pixels = imagecodecs.jpeg8_decode(stream)
    expected = thumbnail(native(pixels, **same))
    assert np.abs(thumbnail(data) - expected).mean() <= MEAN_LEVELS


@pytest.mark.parametrize(
    ("allocated", "stored"),
    [(None, None), (0, 0), (8, 12), (10, 10), (12, 12), (16, 0), (24, 12), (16, 99)],
)
@pytest.mark.parametrize("syntax", [*LOSSLESS, RLELossless])
def test_bits_allocated_and_stored_do_not_matter_to_codestreams(
    syntax: str, allocated: int | None, stored: int | None
) -> None:
    pixels = picture((130, 97), 12)
    ds = dataset(pixels, syntax=RLELossless)
    if syntax != RLELossless:
        stream = encode(pixels, syntax, 12)
        ds = pydicom.dcmread(BytesIO(compressed(stream, syntax, pixels)))
    for keyword, value in (("BitsAllocated", allocated), ("BitsStored", stored)):
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    expected = thumbnail(native(pixels))
    assert np.abs(thumbnail(to_bytes(ds)) - expected).mean() <= MEAN_LEVELS


@pytest.mark.parametrize("text", ["MONOCHROME", "MONOCHROME 2", "monochrome2", ""])
def test_spellings_of_monochrome2(text: str) -> None:
    pixels = picture((130, 97), 12)
    found = thumbnail(native(pixels, PhotometricInterpretation=text))
    assert np.array_equal(found, thumbnail(native(pixels)))


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless])
@settings(max_examples=25)
@given(precision=st.integers(9, 16), more=st.integers(0, 7), signed=st.booleans())
def test_the_sign_bit_is_the_highest_of_the_codestream(
    syntax: str, precision: int, more: int, signed: bool
) -> None:
    bits = min(precision + more, 16)
    values = picture((130, 97), precision)
    if not signed:
        data = compressed(encode(values, syntax, precision), syntax, values, BitsStored=bits)
    else:
        sign = 1 << precision - 1
        stream = encode(values ^ np.uint16(sign), syntax, precision)
        data = compressed(stream, syntax, values.astype(np.int16), BitsStored=bits)
    found = thumbnail(data)
    assert np.abs(found - thumbnail(native(values, BitsStored=16))).mean() <= MEAN_LEVELS


@pytest.mark.parametrize("header", [np.int16, np.uint16])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_signed_jpeg_2000_codestream_is_signed_under_any_header(
    header: type, shape: tuple[int, int]
) -> None:
    pixels = picture(shape, 12)
    signed = (pixels.astype(np.int32) - 2048).astype(np.int16)
    stream = encode(signed, JPEG2000Lossless, 16)
    data = compressed(stream, JPEG2000Lossless, pixels.astype(header), BitsStored=16)
    assert np.abs(thumbnail(data) - thumbnail(native(pixels))).mean() <= MEAN_LEVELS


@pytest.mark.parametrize("syntax", [*LOSSLESS, JPEGBaseline8Bit, RLELossless])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "MONOCHROME1", "MONOCHROME2", None])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_one_component_under_a_color_header_is_grayscale(
    syntax: str, photometric: str | None, shape: tuple[int, int]
) -> None:
    pixels = picture(shape, 8).astype(np.uint8)
    color = np.stack([pixels] * 3, -1)
    if syntax == RLELossless:
        (stream,) = pydicom.encaps.generate_frames(
            dataset(pixels, syntax=RLELossless).PixelData, number_of_frames=1
        )
    else:
        stream = encode(pixels, syntax, 8)
    found = thumbnail(
        compressed(
            stream, syntax, color, PhotometricInterpretation=photometric, PlanarConfiguration=None
        )
    )
    gray = "MONOCHROME1" if photometric == "MONOCHROME1" else "MONOCHROME2"
    expected = thumbnail(native(pixels, PhotometricInterpretation=gray))
    assert np.abs(found - expected).mean() <= MEAN_LEVELS


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit])
def test_three_components_under_a_grayscale_header_are_color(syntax: str) -> None:
    pixels = picture((130, 97), 8).astype(np.uint8)
    stream = encode(np.stack([pixels] * 3, -1), syntax, 8)
    found = thumbnail(compressed(stream, syntax, pixels))
    assert np.abs(found - thumbnail(native(pixels))).mean() <= MEAN_LEVELS


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("planar", [None, 0, 1, 7])
def test_planar_configuration_is_optional(syntax: str, planar: int | None) -> None:
    """It does not matter to codestreams, and is 0 if it is missing or invalid."""
    pixels = picture((130, 97), 8).astype(np.uint8)
    color = np.stack([pixels, pixels // 2, pixels // 3], -1)
    ds = dataset(color, syntax=syntax)
    if syntax in NATIVE and planar == 1:
        ds.PixelData = np.ascontiguousarray(color.transpose(2, 0, 1)).tobytes()
    if planar is None:
        del ds.PlanarConfiguration
    else:
        ds.PlanarConfiguration = planar
    assert np.abs(thumbnail(to_bytes(ds)) - thumbnail(native(color))).max() <= 1


@pytest.mark.parametrize("count", [2, 4, 1000])
def test_another_number_of_components_is_rejected(count: int) -> None:
    pixels = picture((130, 97), 8).astype(np.uint8)
    stream = bytearray(encode(pixels, JPEG2000Lossless, 8))
    stream[40:42] = count.to_bytes(2, "big")
    with pytest.raises(InvalidObject, match="components") as caught:
        thumbnail(compressed(bytes(stream), JPEG2000Lossless, pixels))
    assert caught.value.reason is Reason.SIZE_MISMATCH


@pytest.mark.parametrize(
    ("syntax", "holds"),
    [
        (JPEGBaseline8Bit, JPEGLosslessSV1),
        (JPEGBaseline8Bit, JPEGExtended12Bit),
        (JPEGLosslessSV1, JPEGLSLossless),
        (JPEGLosslessSV1, JPEG2000Lossless),
        (JPEGLSLossless, JPEGLosslessSV1),
        (JPEG2000Lossless, JPEGLosslessSV1),
    ],
)
def test_the_codestream_of_another_syntax_is_decoded(syntax: str, holds: str) -> None:
    pixels = picture((331, 410), 12)
    found = thumbnail(compressed(encode(pixels, holds, 12), syntax, pixels))
    assert np.abs(found - thumbnail(native(pixels))).mean() <= MEAN_LEVELS
