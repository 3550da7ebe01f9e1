"""Pixels that are not square: the network sees the anatomy undistorted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.synthetic import dicom_bytes, image
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.pixel_aspect import ELEMENTS
from transforms.imaging.read_image import decode_inputs, read_image

SIDE = 96
SQUARE = image(shape=(480, 400), bits=8).astype(np.uint8)
SPACINGS = ELEMENTS[1:]


def thumbnail(data: bytes) -> np.ndarray:
    found, _ = decode_inputs(parse(data, Limits()), SIDE, limits=Limits())
    levels: np.ndarray = found[0].astype(int)
    return levels


def box(found: np.ndarray) -> tuple[int, int]:
    """Return height and width of the part that is not black."""
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def value_of(keyword: str, height: int, width: int) -> list[str]:
    """Return the element's value for pixels of this height and width."""
    scale = 1.0 if keyword == "PixelAspectRatio" else 0.01
    return [f"{side * scale:g}" for side in (height, width)]


@pytest.mark.parametrize("keyword", ELEMENTS)
@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit],
)
@pytest.mark.parametrize(("down", "across"), [(1, 2), (2, 1), (1, 4), (5, 1)])
@pytest.mark.parametrize("color", [False, True])
def test_the_thumbnail_is_that_of_square_pixels(
    keyword: str, syntax: str, down: int, across: int, color: bool
) -> None:
    blocks = SQUARE.reshape(480 // down, down, 400 // across, across)
    squeezed = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    if color:
        squeezed = np.stack([squeezed] * 3, -1)
    elements: dict[str, Any] = {keyword: value_of(keyword, down, across)}
    if color and syntax == JPEGBaseline8Bit:
        elements["PhotometricInterpretation"] = "YBR_FULL_422"
    found = thumbnail(dicom_bytes(squeezed, syntax=syntax, **elements))
    expected = thumbnail(dicom_bytes(SQUARE))
    assert box(found) == box(expected)
    assert np.abs(found - expected).mean() < 3


@given(
    rows=st.integers(8, 700),
    columns=st.integers(8, 700),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    long_side=st.sampled_from([SIDE, 4096]),
)
def test_the_shorter_side_is_enlarged(
    rows: int, columns: int, height: int, width: int, long_side: int
) -> None:
    pixels = np.arange(rows * columns, dtype=np.uint16).reshape(rows, columns)
    data = dicom_bytes(pixels, BitsStored=16, PixelAspectRatio=[str(height), str(width)])
    found = read_image(data, long_side).shape
    expected = rows * max(1, height / width), columns * max(1, width / height)
    if long_side == 4096:
        assert found == tuple(round(side) for side in expected)
    elif min(rows, columns) >= 200:  # incomplete blocks of pixels are dropped
        ratio = expected[0] / expected[1]
        assert found[0] / found[1] == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize("keyword", ELEMENTS)
@pytest.mark.parametrize(
    "value",
    [
        ["0", "0"],
        ["1", "0"],
        ["-1", "-2"],
        ["1", "1000000"],
        ["1000", "1"],
        ["1"],
        ["1", "2", "3"],
        "",
        ["1000", "1001"],
    ],
    ids=str,
)
def test_a_missing_implausible_or_square_ratio_changes_nothing(
    keyword: str, value: list[str]
) -> None:
    expected = thumbnail(dicom_bytes(SQUARE))
    assert np.array_equal(thumbnail(dicom_bytes(SQUARE, **{keyword: value})), expected)


def test_the_first_plausible_element_counts() -> None:
    squeezed = SQUARE[:, ::2].copy()
    expected = thumbnail(dicom_bytes(squeezed, PixelAspectRatio=["1", "2"]))
    for ignored in SPACINGS:
        both = {"PixelAspectRatio": ["1", "2"], ignored: ["0.1", "0.1"]}
        assert np.array_equal(thumbnail(dicom_bytes(squeezed, **both)), expected)
        malformed = {"PixelAspectRatio": ["0", "0"], ignored: ["0.1", "0.2"]}
        assert np.array_equal(thumbnail(dicom_bytes(squeezed, **malformed)), expected)


def test_the_network_gets_as_many_pixels_along_the_longer_pixels_as_there_are() -> None:
    """A reduction for the size in pixels would discard columns."""
    stripes = np.tile(np.array([0, 255], np.uint8), 60)
    pixels = np.tile(stripes, (960, 1))
    found = thumbnail(dicom_bytes(pixels, PixelAspectRatio=["1", "8"]))
    assert found.max() - found.min() > 100
