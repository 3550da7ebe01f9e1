"""Small data sets to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.training.data.dataset import read_dataset
from tests.synthetic import dicom_bytes, image
from transforms.core.labels import LABELS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder per label with PNG, JPEG and DICOM images, separable by brightness."""
    root = tmp_path_factory.mktemp("images")
    for index, label in enumerate(LABELS):
        (root / label).mkdir()
        for number in range(12):
            pixels = image(100 * index + number, (80, 64)) >> 4
            if number % 3 == 0:
                Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number}.png")
            elif number % 3 == 1:
                Image.fromarray(pixels.astype(np.uint8)).save(root / label / f"{number}.jpg")
            else:
                (root / label / f"{number}.dcm").write_bytes(dicom_bytes(pixels))
    return root


@pytest.fixture(scope="module")
def manifest(folders: Path) -> Path:
    """Return a manifest of the same images with two sources."""
    path = folders.parent / "manifest.csv"
    with path.open("w") as stream:
        print("path,label,source,group", file=stream)
        for item in read_dataset(folders):
            source = "far" if item.path.stem in ("3", "4", "5") else "near"
            print(f"{item.path},{item.label},{source},{item.group}", file=stream)
    return path
