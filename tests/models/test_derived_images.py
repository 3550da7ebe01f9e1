"""Training on the single views of plates, and on parts of whole spines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.training.data.derived_images import PARTS, WHOLE_SPINE, derive_images, spine_parts
from models.training.data.images import LabeledImage
from models.training.options import FitOptions
from tests.synthetic import smooth_view

SIDE = 128


@pytest.fixture
def plate(tmp_path: Path) -> LabeledImage:
    pixels = np.hstack(
        [smooth_view(1, (400, 180)), np.zeros((400, 12), np.uint8), smooth_view(2, (400, 220))]
    )
    return saved(tmp_path / "plate.png", pixels)


def saved(path: Path, pixels: np.ndarray, region: str = "LumbarSpine") -> LabeledImage:
    Image.fromarray(pixels).save(path)
    return LabeledImage(path, "spine", "train", "site", "patient", region=region, weight=0.5)


def test_without_weights_images_stay_as_they_are(plate: LabeledImage) -> None:
    ((image, pixels),) = derive_images([plate], FitOptions(), SIDE)
    assert image == plate
    assert max(pixels.shape) == SIDE


def test_views_join_their_plate_in_its_group(plate: LabeledImage) -> None:
    found = derive_images([plate], FitOptions(view_weight=2.0, plate_weight=0.5), SIDE)
    assert [image.weight for image, _ in found] == [0.25, 1.0, 1.0]
    assert [image.source for image, _ in found] == ["site", "site views", "site views"]
    assert {(i.group, i.label, i.region, i.split) for i, _ in found} == {
        ("patient", "spine", "LumbarSpine", "train")
    }
    _, first, second = (pixels for _, pixels in found)
    assert first.shape[0] == second.shape[0] == SIDE
    assert first.shape[1] < second.shape[1] < SIDE


def test_plates_can_be_left_out(plate: LabeledImage, tmp_path: Path) -> None:
    single = saved(tmp_path / "single.png", smooth_view(3, (300, 200)))
    options = FitOptions(view_weight=1.0, plate_weight=0.0)
    found = derive_images([plate, single], options, SIDE)
    assert [image.source for image, _ in found] == ["site views", "site views", "site"]
    assert found[-1][0] == single


def test_parts_of_whole_spines_are_narrow_and_restored(tmp_path: Path) -> None:
    square = saved(tmp_path / "square.png", smooth_view(1, (330, 330)), region=WHOLE_SPINE)
    options = FitOptions(part_weight=1.0)
    original, *parts = derive_images([square, replace(square, region="")], options, SIDE)[:-1]
    assert original[0] == square
    assert [image.region for image, _ in parts] == list(PARTS)
    assert {image.source for image, _ in parts} == {"site parts"}
    for _, pixels in parts:
        assert 0.35 < pixels.shape[1] / pixels.shape[0] < 0.85
    again = derive_images([square], options, SIDE)[1:]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(parts, again, strict=True))


@pytest.mark.parametrize("shape", [(416, 91), (416, 229), (300, 300), (40, 90)])
def test_parts_lie_within_the_image(shape: tuple[int, int]) -> None:
    for seed in range(50):
        for _, part in spine_parts(smooth_view(1, shape), np.random.default_rng(seed)):
            assert 0 < part.shape[0] < shape[0]
            assert 0 < part.shape[1] <= shape[1]
