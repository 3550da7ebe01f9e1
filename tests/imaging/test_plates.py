"""Images of two views side by side are cut at their seam; single views are not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.synthetic import smooth_view
from transforms.imaging.plates import find_seam, network_inputs, split_plate


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_strip_separates_two_views(level: int) -> None:
    first, second = smooth_view(1, (400, 180)), smooth_view(2, (400, 220))
    plate = np.hstack([first, np.full((400, 12), level, np.uint8), second])
    views = split_plate(plate)
    assert [v.shape[0] for v in views] == [400, 400]
    assert [abs(v.shape[1] - width) < 16 for v, width in zip(views, (180, 220), strict=True)] == [
        True, True,
    ]  # fmt: skip
    assert np.corrcoef(views[0][:, :160].ravel(), first[:, 3:163].ravel())[0, 1] > 0.99


def test_the_edge_of_a_view_separates_it_without_a_strip() -> None:
    plate = np.hstack([smooth_view(1, (400, 200), 20, 90), smooth_view(2, (400, 200), 130, 250)])
    seam = find_seam(plate)
    assert seam is not None
    assert abs(seam - 0.5) < 0.01
    assert len(split_plate(plate)) == 2


def test_borders_are_cut_off() -> None:
    plate = np.zeros((480, 520), np.uint8)
    plate[40:440, 30:230], plate[40:440, 290:490] = (
        smooth_view(1, (400, 200)),
        smooth_view(2, (400, 200)),
    )
    first, second = split_plate(plate)
    for one in (first, second):
        assert abs(one.shape[0] - 400) < 12
        assert abs(one.shape[1] - 200) < 12


@pytest.mark.parametrize("scale", [1, 2])
def test_views_are_found_in_any_range_and_size(scale: int) -> None:
    first, second = smooth_view(1, (400, 180)), smooth_view(2, (400, 180))
    plate = np.hstack([first, np.zeros((400, 12), np.uint8), second])[::scale, ::scale]
    whole, *views = network_inputs(plate, 96)
    assert len(views) == 2
    for levels in (plate.astype(np.float32), plate * np.float32(0.01) - 3):
        found = network_inputs(levels, 96)
        assert found.shape == (3, 96, 96)
        assert np.array_equal(found[0], whole)
        assert np.abs(found[1].astype(int) - views[0]).max() <= 1


def test_single_views_and_texture_are_not_cut() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (400, 300)).astype(np.uint8)  # steps in every column
    for one in (
        smooth_view(1, (400, 300)),
        smooth_view(2, (300, 400)),
        texture,
        np.zeros((300, 300), np.uint8),
    ):
        assert split_plate(one) == ()


def test_a_view_beside_an_empty_side_is_not_cut() -> None:
    """A marker or a bright edge in the empty half is not a second view."""
    plate = np.zeros((400, 400), np.uint8)
    plate[:, :150] = smooth_view(1, (400, 150))
    plate[380:, 200:] = 255
    plate[30:60, 300:330] = 255
    assert split_plate(plate) == ()


@pytest.mark.parametrize("shape", [(1, 1), (5, 300), (300, 5), (60, 60), (2000, 40)])
def test_tiny_images_are_not_cut(shape: tuple[int, int]) -> None:
    assert split_plate(np.full(shape, 7, np.uint8)) == ()
    assert network_inputs(np.full(shape, -1e30, np.float32), 32).shape == (1, 32, 32)
    assert split_plate(smooth_view(1, shape) if min(shape) > 5 else np.ones(shape, np.uint8)) == ()
