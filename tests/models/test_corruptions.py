"""Corruptions change images as their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from models.training.data.images import LabeledImage
from models.training.evaluation.corruptions import (
    CORRUPTIONS,
    PAIRED,
    UNCHANGED,
    load_corrupted,
    load_single_views,
)
from tests.synthetic import image, smooth_view
from transforms.imaging.preprocessing import preprocess


def test_corruptions_are_applied(tmp_path: Path) -> None:
    images = []
    for number in range(3):
        Image.fromarray((image(number, (128, 96)) >> 4).astype(np.uint8)).save(
            tmp_path / f"{number}.png"
        )
        images.append(LabeledImage(tmp_path / f"{number}.png", "spine", "test", "s", str(number)))

    def load() -> dict[str, np.ndarray]:
        """Return the whole images; pairs of images are plates."""
        loaded = load_corrupted(images, 128).items()
        return {name: np.stack([one[:1] for one in of]) for name, of in loaded}

    corrupted = load()
    assert list(corrupted) == [UNCHANGED, *CORRUPTIONS, PAIRED]
    plain = corrupted[UNCHANGED][:, 0]
    for name, view in corrupted.items():
        assert view.shape == (3, 1, 128, 128)
        assert name == UNCHANGED or not np.array_equal(view[:, 0], plain), name
    assert np.array_equal(corrupted["mirrored"][0, 0], plain[0, :, ::-1])
    assert np.array_equal(corrupted["rotated by 90°"][0, 0], np.rot90(plain[0]))
    squeezed = corrupted["squeezed to a square"][:, 0]
    assert (squeezed[:, :, 0] > 0).mean() > 0.5, "no bar at the side"
    assert (plain[:, :, 0] == 0).all()
    black = corrupted["black frame"][:, 0]
    assert not black[:, :20].any()
    assert (corrupted["white frame"][:, 0, 0, 30:98] == 255).all()
    assert corrupted["gamma 0.4"].mean() > corrupted[UNCHANGED].mean() + 10
    assert corrupted["gamma 2.5"].mean() < corrupted[UNCHANGED].mean() - 10
    with_text = corrupted["burned-in text"][:, 0].astype(int)
    assert ((with_text != plain).any((0, 2)).nonzero()[0] // 16).tolist().count(2) > 4, "at a third"
    again = load()
    assert all(np.array_equal(again[name], corrupted[name]) for name in corrupted)


def test_single_views_belong_to_their_plates(tmp_path: Path) -> None:
    first, second = smooth_view(1, (400, 180)), smooth_view(2, (400, 220))
    shown = [smooth_view(3, (400, 300)), np.hstack([first, np.zeros((400, 20), np.uint8), second])]
    images = []
    for number, pixels in enumerate(shown):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append(LabeledImage(tmp_path / f"{number}.png", "spine", "test", "s", str(number)))
    inputs, numbers = load_single_views(images, 64)
    assert inputs.shape == (2, 1, 64, 64)
    assert numbers.tolist() == [1, 1]
    difference = inputs[1].numpy().astype(int) - preprocess(second[:, 3:-3], 64)
    assert abs(difference).mean() < 6
    assert load_single_views(images[:1], 64)[0].shape == (0, 1, 64, 64)
