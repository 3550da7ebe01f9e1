"""Images for a viewer: the values of the modality, and a window that shows them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless

from pipeline.images import Renderer
from tests.synthetic import dicom_bytes, image
from transforms.core.reasons import Reason
from transforms.imaging.display_image import DisplayImage
from transforms.imaging.limits import Limits
from transforms.sandbox.display import _parse
from transforms.sandbox.protocol import decode_value, encode_value

PIXELS = image(3, (400, 200))
FULL = 1 << 13


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    with Renderer(threads=1, limits=Limits(max_pixels=1 << 20)) as shared:
        yield shared


def shown(renderer: Renderer, folder: Path, **elements: Any) -> DisplayImage:
    side, pixels = elements.pop("side", FULL), elements.pop("pixels", PIXELS)
    path = folder / "a.dcm"
    path.write_bytes(dicom_bytes(pixels, **elements))
    found = renderer.display_image(str(path), side)
    assert isinstance(found, DisplayImage), found
    return found


def values(found: DisplayImage) -> npt.NDArray[np.floating]:
    return found.intercept + found.slope * found.levels


def window(found: DisplayImage) -> tuple[float, float]:
    """Center and width in units of the modality."""
    low, high = (found.intercept + found.slope * level for level in (found.low, found.high))
    return (low + high) / 2, abs(high - low)


@pytest.mark.parametrize(
    "syntax", [JPEG2000Lossless, ExplicitVRBigEndian, "1.2.840.10008.1.2.1"], ids=str
)
def test_values_are_those_of_the_modality_and_the_window_that_of_the_header(
    renderer: Renderer, tmp_path: Path, syntax: str
) -> None:
    elements = {"RescaleSlope": "2", "RescaleIntercept": "-100", "syntax": syntax}
    found = shown(renderer, tmp_path, WindowCenter="4000", WindowWidth="3000", **elements)
    assert np.array_equal(values(found), 2.0 * PIXELS - 100)
    assert window(found) == pytest.approx((4000, 3000))
    assert found.full_long_side == 400


def test_monochrome1_is_inverted_with_its_window(renderer: Renderer, tmp_path: Path) -> None:
    given = {"WindowCenter": "1500", "WindowWidth": "1000"}
    found = shown(renderer, tmp_path, PhotometricInterpretation="MONOCHROME1", **given)
    assert np.array_equal(values(found), PIXELS)
    brightest = np.unravel_index(found.levels.argmax(), PIXELS.shape)
    assert PIXELS[brightest] == PIXELS.min()
    assert window(found) == pytest.approx((1500, 1000))
    assert found.low < found.high


@pytest.mark.parametrize(("center", "width"), [("99999", "1"), ("-5", "-5"), ("", "")])
def test_a_window_that_shows_nothing_is_replaced(
    renderer: Renderer, tmp_path: Path, center: str, width: str
) -> None:
    found = shown(renderer, tmp_path, WindowCenter=center, WindowWidth=width)
    inside = (found.levels > found.low) & (found.levels < found.high)
    assert inside.mean() > 0.9


def test_a_voi_lut_is_applied(renderer: Renderer, tmp_path: Path) -> None:
    lut = Dataset()
    lut.LUTDescriptor = [4096, 0, 16]
    entries = (np.sqrt(np.arange(4096)) * 500).astype("<u2")
    lut.LUTData = entries.tobytes()
    found = shown(renderer, tmp_path, VOILUTSequence=[lut])
    assert np.abs(values(found) - entries[PIXELS]).max() <= 1


def test_padding_is_dark_and_outside_the_window(renderer: Renderer, tmp_path: Path) -> None:
    pixels = PIXELS.clip(100).copy()
    pixels[:50] = 4095
    found = shown(renderer, tmp_path, pixels=pixels, PixelPaddingValue=4095)
    assert found.levels[:50].max() == 0
    assert window(found)[0] < 2500


def test_a_reduced_image_has_the_averages_of_the_full_one(
    renderer: Renderer, tmp_path: Path
) -> None:
    found = shown(renderer, tmp_path, side=100, PixelSpacing=["0.2", "0.1"])
    assert (found.levels.shape, found.full_long_side) == ((100, 25), 800)
    assert values(found).mean() == pytest.approx(PIXELS.mean(), rel=0.01)


def test_color_and_frames(renderer: Renderer, tmp_path: Path) -> None:
    color = np.stack([PIXELS >> 4] * 3, axis=-1).astype(np.uint8)
    found = shown(renderer, tmp_path, pixels=color)
    assert np.abs(values(found) - (PIXELS >> 4)).max() < 1
    assert window(found) == pytest.approx((127.5, 255))
    path = tmp_path / "frames.dcm"
    path.write_bytes(dicom_bytes(np.stack([PIXELS, PIXELS // 2])))
    second = renderer.display_image(str(path), FULL, frame_number=2)
    assert isinstance(second, DisplayImage)
    assert np.array_equal(values(second), PIXELS // 2)


def test_what_cannot_be_shown_has_a_reason(renderer: Renderer, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    assert renderer.display_image(str(path), FULL) == Reason.DISAPPEARED
    path.write_bytes(b"no DICOM")
    assert renderer.display_image(str(path), FULL) == Reason.NOT_DICOM
    data = dicom_bytes(PIXELS)
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    assert renderer.display_image(str(path), FULL, sha256="0" * 64) == Reason.CHANGED
    assert isinstance(renderer.display_image(str(path), FULL, sha256=digest), DisplayImage)
    path.write_bytes(dicom_bytes(image(0, (1025, 1024))))
    assert renderer.display_image(str(path), FULL) == Reason.TOO_MANY_PIXELS


ANSWER = {
    "levels": bytes(8),
    "rows": 2,
    "columns": 2,
    "slope": 1.0,
    "intercept": 0.0,
    "low": 0.0,
    "high": 1.0,
    "full_long_side": 2,
}


def test_an_answer_of_a_child_is_accepted_only_if_it_can_be_one() -> None:
    assert isinstance(_parse(decode_value(encode_value(ANSWER))), DisplayImage)
    assert _parse({"reason": "truncated"}) == Reason.TRUNCATED
    for changed in (
        {"levels": bytes(10)},
        {"levels": "text"},
        {"rows": -2, "columns": -2},
        {"rows": True},
        {"slope": 0.0},
        {"slope": math.nan},
        {"low": math.inf},
        {"low": 1.0},
        {"high": "<script>"},
        {"more": 1},
    ):
        with pytest.raises(ValueError):
            _parse({**ANSWER, **changed})
    wrongs: tuple[Any, ...] = (None, [], {"reason": "confident"}, {"reason": "<b>"}, {"reason": 1})
    for wrong in wrongs:
        with pytest.raises(ValueError):
            _parse(wrong)
