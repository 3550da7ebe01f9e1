"""A folder of images that are not radiographs, to fit the outlier logit on."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from models.training.data.images import DatasetError, load_image, to_uint8
from models.training.data.outliers import vary

Gray: TypeAlias = npt.NDArray[np.uint8]

SUFFIXES: Final = (".png", ".jpg", ".jpeg")
SIDE: Final = 256
"""Long side that images are loaded at, at least, in pixels."""
SOURCES_FILE: Final = "sources.csv"
"""What a folder may say about its images: columns source and license."""


@dataclass(frozen=True)
class OutlierImages:
    """Images by kind and source.

    Attributes:
        images: uint8[H, W] by (kind, source), each with at least one.
        licenses: by source, "" if the folder does not state it.
    """

    images: Mapping[tuple[str, str], Sequence[Gray]]
    licenses: Mapping[str, str]

    def variant(self, rng: np.random.Generator) -> Gray:
        """Return a variant of a random image.

        All kinds are as likely; so are, half of the time, all sources of a kind, else all images.
        """
        kinds = sorted({kind for kind, _ in self.images})
        kind = kinds[int(rng.integers(len(kinds)))]
        own = [images for (of, _), images in sorted(self.images.items()) if of == kind]
        if rng.random() < 0.5:
            source = own[int(rng.integers(len(own)))]
        else:
            numbers = np.array([len(images) for images in own])
            source = own[int(rng.choice(len(own), p=numbers / numbers.sum()))]
        return vary(source[int(rng.integers(len(source)))], source, rng)

    def provenance(self) -> list[dict[str, Any]]:
        """Return source, license, kinds and number of images of each source, for a bundle."""
        return [
            {
                "source": source,
                "license": license_,
                "kinds": sorted(kind for kind, of in self.images if of == source),
                "images": sum(len(own) for (_, of), own in self.images.items() if of == source),
            }
            for source, license_ in sorted(self.licenses.items())
        ]


def read_outlier_folder(folder: Path) -> OutlierImages:
    """Read the images KIND/SOURCE/NAME.png of a folder.

    Raises:
        DatasetError: There are none, or one is not readable.
    """
    images: dict[tuple[str, str], list[Gray]] = {}
    for file in sorted(folder.glob("*/*/*")):
        if file.suffix.lower() in SUFFIXES:
            own = images.setdefault((file.parent.parent.name, file.parent.name), [])
            own.append(to_uint8(load_image(file, SIDE)))
    if not images:
        raise DatasetError(
            f"{folder}: no images KIND/SOURCE/NAME.png; python -m benchmarks.outlier_images writes some"
        )
    stated = {}
    if (folder / SOURCES_FILE).is_file():
        with (folder / SOURCES_FILE).open(encoding="utf-8", newline="") as lines:
            stated = {line["source"]: line["license"] for line in csv.DictReader(lines)}
    return OutlierImages(images, {source: stated.get(source, "") for _, source in images})
