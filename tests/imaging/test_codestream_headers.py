"""Mistakes of the header about a codestream do not matter: precision, sign and components."""

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
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.imaging.encoded_images import (
    LOSSLESS,
    MEAN_LEVELS,
    NATIVE,
    SHAPES,
    bordered,
    compressed,
    encode,
    native,
    picture,
    thumbnail,
)
from tests.synthetic import dataset, to_bytes
from transforms.core.reasons import InvalidObject, Reason


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
