"""What a reduced or compressed decode reads is what a full decode reads."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    JPEG2000,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.imaging.encoded_images import (
    DCT,
    LOSSLESS,
    MEAN_LEVELS,
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
from transforms.imaging.read_image import read_image


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
