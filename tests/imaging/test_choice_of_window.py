"""LUTs and windows that show nothing are skipped: the next one is applied, then none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.imaging.read_image import read_image

PIXELS = image(shape=(120, 96))
PADDING = 4095
WINDOW = st.tuples(st.integers(-2000, 6000), st.integers(2, 6000))


def gray(data: bytes) -> np.ndarray:
    return read_image(data, 4096)


def same_picture(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether two images differ by gain and offset only."""

    def normalized(values: np.ndarray) -> np.ndarray:
        shifted = values.astype(np.float64) - values.min()
        scaled: np.ndarray = shifted / max(float(shifted.max()), 1e-9)
        return scaled

    return bool(np.abs(normalized(found) - normalized(expected)).max() < 1e-3)


def clipped(values: np.ndarray, center: float, width: float) -> np.ndarray:
    low = center - 0.5 - (width - 1) / 2
    return np.clip(values.astype(np.float64), low, low + width - 1)


def share_between(values: np.ndarray, center: float, width: float) -> float:
    inside = clipped(values, center, width)
    low = center - 0.5 - (width - 1) / 2
    return float(((inside > low) & (inside < low + width - 1)).mean())


def with_dark_corner() -> np.ndarray:
    """Return an image of which a twentieth is dark enough for a window of soft tissue."""
    pixels = PIXELS // 2 + 1500
    pixels[:30, :20] = np.arange(600).reshape(30, 20) // 3
    return pixels


def lut(count: int, first: int, values: np.ndarray) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [count, first, 16])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    return item


@given(windows=st.lists(WINDOW, min_size=1, max_size=4), padded=st.booleans())
def test_the_first_window_that_shows_a_tenth_of_the_pixels_is_applied(
    windows: list[tuple[int, int]], padded: bool
) -> None:
    pixels = np.minimum(PIXELS, PADDING - 1)
    elements: dict[str, object] = {
        "WindowCenter": [str(center) for center, _ in windows],
        "WindowWidth": [str(width) for _, width in windows],
    }
    if padded:
        pixels = np.concatenate([pixels, np.full((800, pixels.shape[1]), PADDING, np.uint16)])
        elements["PixelPaddingValue"] = PADDING
    seen = pixels[: PIXELS.shape[0]]
    expected = seen
    for center, width in windows:
        share = share_between(seen, center, width)
        assume(abs(share - 0.1) > 0.03)  # a tenth, to the precision of a display
        if share > 0.1:
            expected = clipped(seen, center, width)
            break
    found = gray(dicom_bytes(pixels, **elements))
    assert same_picture(found[: PIXELS.shape[0]], expected)


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": "40", "WindowWidth": "400"},
        {"WindowCenter": "2048", "WindowWidth": "1"},
        {"WindowCenter": "128", "WindowWidth": "256"},
        {"WindowCenter": "-9000", "WindowWidth": "100"},
        {"WindowCenter": "60000", "WindowWidth": "100"},
        {"WindowCenter": "40", "WindowWidth": "400", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "40", "WindowWidth": "100", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": ["40", "", "70"], "WindowWidth": ["400", "2", "30"]},
    ],
    ids=str,
)
def test_a_window_that_shows_nothing_is_ignored(elements: dict[str, str]) -> None:
    pixels = with_dark_corner()
    assert np.array_equal(gray(dicom_bytes(pixels, **elements)), gray(dicom_bytes(pixels)))


def test_a_window_in_stored_units_is_ignored_after_rescale() -> None:
    scaled = {"RescaleSlope": "16", "RescaleIntercept": "0"}
    pixels = with_dark_corner()
    windowed = dicom_bytes(pixels, WindowCenter="2048", WindowWidth="4096", **scaled)
    assert np.array_equal(gray(windowed), gray(dicom_bytes(pixels, **scaled)))


def test_a_narrow_window_that_shows_half_of_the_pixels_is_applied() -> None:
    low, high = np.percentile(PIXELS, (40, 90))
    center, width = round((low + high) / 2), round(high - low)
    found = gray(dicom_bytes(PIXELS, WindowCenter=str(center), WindowWidth=str(width)))
    assert same_picture(found, clipped(PIXELS, center, width))


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("first", [-5000, 0, 60000])
def test_a_lut_that_shows_nothing_is_ignored(sequence: str, first: int) -> None:
    short = lut(256, first, np.arange(256) * 257)
    pixels = with_dark_corner().astype(np.int16)
    ds = dataset(pixels)
    setattr(ds, sequence, Sequence([short]))
    found = gray(to_bytes(ds))
    assert np.array_equal(found, gray(dicom_bytes(pixels)))


def test_the_lut_of_another_item_or_the_window_replaces_one_that_shows_nothing() -> None:
    short, falling = (
        lut(256, 0, np.arange(256) * 257),
        lut(4096, 0, (4095 - np.arange(4096)) * 16),
    )
    both = dataset(PIXELS, VOILUTSequence=Sequence([short, falling]))
    assert same_picture(gray(to_bytes(both)), -PIXELS.astype(np.float64))
    window = {"WindowCenter": "2000", "WindowWidth": "2000"}
    windowed = dataset(PIXELS, VOILUTSequence=Sequence([short]), **window)
    assert np.array_equal(gray(to_bytes(windowed)), gray(dicom_bytes(PIXELS, **window)))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
def test_presentation_lut_shape_is_ignored(photometric: str, shape: str) -> None:
    plain = gray(dicom_bytes(PIXELS, PhotometricInterpretation=photometric))
    shaped = dicom_bytes(PIXELS, PhotometricInterpretation=photometric, PresentationLUTShape=shape)
    assert np.array_equal(gray(shaped), plain)
