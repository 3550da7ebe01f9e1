"""Conversion of stored values to the display values of MONOCHROME2, and to the network's input."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.synthetic import dataset, dicom_bytes, image, to_bytes
from transforms.imaging.preprocessing import preprocess
from transforms.imaging.read_image import read_image

PIXELS = image(shape=(200, 160))


def gray(data: bytes) -> np.ndarray:
    return read_image(data, 4096)


def lut(first: int, values: np.ndarray, kind: str) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, 16]
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    if kind == "modality":
        item.ModalityLUTType = "US"
    return item


def test_rescale_is_applied() -> None:
    displayed = gray(dicom_bytes(PIXELS, RescaleSlope="2", RescaleIntercept="-1000"))
    assert np.allclose(displayed, PIXELS * 2.0 - 1000)


def test_monochrome1_is_inverted() -> None:
    plain = gray(dicom_bytes(PIXELS))
    inverted = gray(dicom_bytes(PIXELS, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverted, -plain)


def test_a_window_clips_values_outside_it() -> None:
    displayed = gray(dicom_bytes(PIXELS, WindowCenter="2000", WindowWidth="1000"))
    assert np.unique(displayed[PIXELS < 1499]).size == 1
    assert np.unique(displayed[PIXELS > 2500]).size == 1
    inside = (PIXELS > 1600) & (PIXELS < 2400)
    correlation = np.corrcoef(displayed[inside], PIXELS[inside])[0, 1]
    assert correlation == pytest.approx(1)


def test_the_window_is_applied_after_rescale() -> None:
    in_units = gray(
        dicom_bytes(
            PIXELS,
            RescaleSlope="1",
            RescaleIntercept="-1000",
            WindowCenter="1000",
            WindowWidth="1000",
        )
    )
    stored = gray(dicom_bytes(PIXELS, WindowCenter="2000", WindowWidth="1000"))
    assert np.array_equal(in_units == in_units.min(), stored == stored.min())


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_lut_is_applied(sequence: str) -> None:
    ds = dataset(PIXELS)
    curve = (4095 - np.arange(4096)) * 16
    setattr(ds, sequence, Sequence([lut(0, curve, sequence[:8].lower())]))
    assert np.array_equal(gray(to_bytes(ds)), curve[PIXELS].astype(np.float32))


@pytest.mark.parametrize("width", ["0", "-5", "1e-30"])
def test_an_invalid_window_is_ignored(width: str) -> None:
    displayed = gray(dicom_bytes(PIXELS, WindowCenter="-5000", WindowWidth=width))
    assert np.array_equal(displayed, PIXELS.astype(np.float32))


def test_a_sigmoid_window_is_monotonic() -> None:
    displayed = gray(
        dicom_bytes(PIXELS, WindowCenter="2000", WindowWidth="1000", VOILUTFunction="SIGMOID")
    )
    order = np.argsort(PIXELS.ravel(), kind="stable")
    assert (np.diff(displayed.ravel()[order]) >= 0).all()


def test_padding_is_darkest_and_excluded_from_averages() -> None:
    pixels = image(shape=(1024, 1024)) // 2 + 1000
    padded = pixels.copy()
    padded[:, :301] = 4095
    displayed = read_image(dicom_bytes(padded, PixelPaddingValue=4095), 256)
    plain = read_image(dicom_bytes(pixels), 256)
    assert (displayed[:, :75] == displayed.min()).all()
    assert np.array_equal(displayed[:, 76:], plain[:, 76:])
    mixed = displayed[:, 75]  # averages one column of padding and three of pixels
    assert np.abs(mixed - pixels[:, 301:304].reshape(256, -1).mean(axis=1)).max() < 1


def test_a_padding_range_includes_both_limits() -> None:
    pixels = image(shape=(256, 256)) // 2 + 100
    pixels[:50] = 3
    pixels[50:80] = 9
    displayed = gray(dicom_bytes(pixels, PixelPaddingValue=3, PixelPaddingRangeLimit=9))
    assert (displayed[:80] == displayed.min()).all()


def test_preprocessing_keeps_the_aspect_ratio() -> None:
    tall = preprocess(np.full((400, 100), 7, np.float32) + np.eye(400, 100, dtype=np.float32), 224)
    columns = np.flatnonzero(tall[0].any(axis=0))
    assert tall.shape == (1, 224, 224)
    assert columns.min() >= 84
    assert columns.max() < 140


def test_preprocessing_a_constant_image_gives_zeros() -> None:
    assert not preprocess(np.full((300, 200), 1234.5, np.float32), 224).any()


def test_preprocessing_is_invariant_to_gain_and_offset() -> None:
    one = preprocess(PIXELS.astype(np.float32), 224).astype(int)
    other = preprocess(PIXELS.astype(np.float32) * 3 - 700, 224).astype(int)
    assert np.abs(one - other).max() <= 1
