"""Folders of images that are not radiographs, for the fit of the OOD score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.training.data.images import DatasetError
from models.training.data.outlier_folder import SOURCES_FILE, read_outlier_folder
from models.training.data.outliers import TILE_SIDE, mosaic

GRAY = {("ct", "alpha"): 40, ("mr", "alpha"): 90, ("mr", "beta"): 200}
"""Gray level of the images of a kind and source."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for (kind, source), level in GRAY.items():
        (tmp_path / kind / source).mkdir(parents=True)
        for number in range(2):
            image = Image.new("L", (40, 30 + number), level)
            image.save(tmp_path / kind / source / f"{number}.png")
    (tmp_path / SOURCES_FILE).write_text("source,license\nalpha,MIT\n", encoding="utf-8")
    (tmp_path / "ct" / "alpha" / "notes.txt").write_text("no image", encoding="utf-8")
    return tmp_path


def test_a_folder_has_images_by_kind_and_source(folder: Path) -> None:
    found = read_outlier_folder(folder)
    assert {key: len(images) for key, images in found.images.items()} == dict.fromkeys(GRAY, 2)
    assert {key: int(images[0].max()) for key, images in found.images.items()} == GRAY
    assert found.provenance() == [
        {"source": "alpha", "license": "MIT", "kinds": ["ct", "mr"], "images": 4},
        {"source": "beta", "license": "", "kinds": ["mr"], "images": 2},
    ]


def test_variants_are_repeatable_and_of_all_sources(folder: Path) -> None:
    found = read_outlier_folder(folder)
    one, same, other = (
        [found.variant(np.random.default_rng(seed)) for _ in range(2)] for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    rng = np.random.default_rng(0)
    plain = {tuple(np.unique(found.variant(rng))) for _ in range(200)}
    assert {(level,) for level in GRAY.values()} <= plain


def test_a_mosaic_shows_every_image() -> None:
    sheet = mosaic([np.full((8, 8), level, np.uint8) for level in (50, 100, 150)], 2)
    assert sheet.shape == (2 * TILE_SIDE, 2 * TILE_SIDE)
    assert set(np.unique(sheet)) == {0, 50, 100, 150}


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flat.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="no images KIND/SOURCE/NAME"):
        read_outlier_folder(tmp_path)
