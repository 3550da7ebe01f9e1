"""Augmentation is repeatable and keeps the anatomy."""

from __future__ import annotations

import numpy as np
import pytest

from models.training.data.augmentation import (
    Augmentation,
    add_frame,
    augment,
    mix_style,
    side_by_side,
)
from models.training.data.outliers import shuffle_tiles
from tests.synthetic import image


@pytest.mark.parametrize("augmentation", ["plain", "strong"])
def test_augmentation_is_repeatable_and_keeps_the_range(augmentation: Augmentation) -> None:
    gray = (image(shape=(120, 90)) >> 4).astype(np.uint8)
    for seed in range(60):
        one = augment(gray, np.random.default_rng(seed), augmentation)
        assert np.array_equal(one, augment(gray, np.random.default_rng(seed), augmentation))
        assert 0 <= one.min() <= one.max() <= 255
        assert min(one.shape) >= 8


def test_margins_are_darkened_as_often_as_asked() -> None:
    white = np.full((120, 90), 255, np.uint8)

    def changed(collimation: float) -> int:
        one, other = (
            [augment(white, np.random.default_rng(seed), "strong", share) for seed in range(40)]
            for share in (0.0, collimation)
        )
        return sum(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    assert changed(0.0) == 0
    assert changed(0.5) < changed(1.0) == 40


def test_a_mixed_style_keeps_the_anatomy() -> None:
    one, other = ((image(seed, (64, 64)) >> 4).astype(np.uint8)[None] for seed in (1, 2))
    assert np.array_equal(mix_style(one, one, np.random.default_rng(0)), one)
    mixed = mix_style(one, other, np.random.default_rng(0))
    assert mixed.shape == one.shape
    assert not np.array_equal(mixed, one)

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    assert alike(mixed, one) > alike(mixed, other)


def test_a_pair_shows_both_images() -> None:
    dark, bright = np.full((90, 60), 50, np.uint8), np.full((200, 120), 200, np.uint8)
    layouts = set()
    for seed in range(40):
        pair = side_by_side(dark, bright, np.random.default_rng(seed))
        assert np.array_equal(pair, side_by_side(dark, bright, np.random.default_rng(seed)))
        assert max(pair.shape) <= 90
        for of in (50, 200):
            assert (abs(pair.astype(int) - of) <= 2).mean() > 0.2
        ends = (int(pair[1, 1]), int(pair[-2, -2]))
        is_stacked = len(np.unique(pair[:, 1])) > 1
        layouts.add((*sorted(ends), is_stacked, ends[0] < ends[1]))
    assert layouts == {
        (50, 200, stacked, first) for stacked in (True, False) for first in (True, False)
    }


def test_a_frame_keeps_the_whole_image() -> None:
    ramp = np.tile(np.arange(60, 160, dtype=np.uint8), (80, 1))
    layouts = set()
    for seed in range(60):
        shown = add_frame(ramp, np.random.default_rng(seed))
        assert np.array_equal(shown, add_frame(ramp, np.random.default_rng(seed)))
        assert max(shown.shape) == 100
        row = shown[len(shown) // 2].astype(int)
        assert all((abs(row - level) <= 3).any() for level in range(65, 155))
        reaches_sides = abs(row[0] - 60) <= 3 and abs(row[-1] - 159) <= 3
        reaches_top = len(np.unique(shown[0])) > 20
        layouts.add((bool(reaches_sides), reaches_top))
    assert {(True, False), (False, True), (False, False)} <= layouts


def test_shuffled_tiles_keep_the_pixels() -> None:
    one = (image(shape=(60, 60)) >> 4).astype(np.uint8)[None]
    mixed = shuffle_tiles(one, np.random.default_rng(3))
    assert not np.array_equal(mixed, one)
    assert np.array_equal(np.sort(mixed, axis=None), np.sort(one, axis=None))
