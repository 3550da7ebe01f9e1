"""Bits outside Bits Stored never reach the network."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGExtended12Bit, RLELossless

from tests.imaging.encoded_images import (
    LOSSLESS,
    NATIVE,
    SHAPES,
    SIDE,
    bordered,
    compressed,
    encode,
    native,
    picture,
    thumbnail,
)
from tests.synthetic import dataset, to_bytes
from transforms.imaging.codecs import codestream, jpeg2000
from transforms.imaging.codecs.frame import build_frame_request
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse


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
