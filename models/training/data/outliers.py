"""Images that are not radiographs, for outlier exposure and for the evaluation of the OOD score.

The two families share no generator and no image: `synthetic_outlier` for training (Hendrycks et al. 2019,
"Deep Anomaly Detection with Outlier Exposure"), `evaluation_outliers` for evaluation only.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from models.training.data.augmentation import augment
from models.training.data.phantoms import cloud, head, qa_phantom, section, sector, ultrasound

Gray: TypeAlias = npt.NDArray[np.uint8]
Maker: TypeAlias = Callable[[np.random.Generator, int], npt.NDArray[np.floating]]

SYNTHETIC_KINDS: Final = ("noise", "blank", "test pattern", "page of text")
"""Kinds of `evaluation_outliers` that are generated here, free of licences."""
MAX_PER_KIND: Final = 60
"""Number of images of each kind in an evaluation of at least as many radiographs."""
MOSAIC_SHARE: Final = 0.12
"""Share of the variants of an image that show it among others."""
PLAIN_SHARE: Final = 0.35
"""Share of the others that are the image itself."""
TILE_SIDE: Final = 128
"""Side of a tile of a mosaic, in pixels."""
MAX_FRAMES: Final = 10
"""Frames taken of each DICOM file."""


def shapes(rng: np.random.Generator, side: int) -> npt.NDArray[np.floating]:
    """Return ellipses and polygons on a uniform background."""
    image = Image.new("L", (side, side), int(rng.integers(256)))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 12))):
        points = [tuple(point) for point in rng.uniform(0, side, (int(rng.integers(3, 6)), 2))]
        level = int(rng.integers(256))
        if rng.random() < 0.5:
            draw.polygon(points, fill=level)
        else:
            (left, right), (top, bottom) = np.sort(rng.uniform(0, side, (2, 2)), axis=1)
            draw.ellipse((left, top, right, bottom), fill=level)
    return np.asarray(image, dtype=np.float32)


def waves(rng: np.random.Generator, side: int) -> npt.NDArray[np.floating]:
    """Return superimposed gratings, smooth or binary."""
    y, x = np.mgrid[0:side, 0:side] / side
    total = np.zeros((side, side))
    for _ in range(int(rng.integers(1, 4))):
        angle, frequency = rng.uniform(0, math.pi), rng.uniform(1, 30)
        total += np.sin(2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)))
    return np.sign(total) if rng.random() < 0.4 else total


TRAINING_KINDS: Final[tuple[Maker, ...]] = (
    cloud, shapes, waves, section, head, sector, ultrasound, qa_phantom,
)  # fmt: skip


def synthetic_outlier(rng: np.random.Generator, side: int) -> Gray:
    """Return a random outlier for training, uint8[side, side]."""
    make = TRAINING_KINDS[int(rng.integers(len(TRAINING_KINDS)))]
    return _to_gray(make(rng, side))


def vary(image: Gray, others: Sequence[Gray], rng: np.random.Generator) -> Gray:
    """Return a random variant of an image that is not a radiograph.

    Args:
        image: uint8[H, W].
        others: of its kind, which may stand around it in a mosaic.
        rng: random generator.
    """
    if rng.random() < MOSAIC_SHARE:
        rows, columns = rng.integers(1, 5, 2)
        chosen = [others[int(n)] for n in rng.integers(0, len(others), rows * columns)]
        return mosaic([image, *chosen[1:]], int(columns))
    if rng.random() < PLAIN_SHARE:
        return image
    return augment(image, rng).astype(np.uint8)


def mosaic(images: Sequence[Gray], columns: int) -> Gray:
    """Return images in rows of tiles, as consoles show series and frames.

    Args:
        images: uint8[H, W].
        columns: number of tiles in a row.
    """
    rows = -(-len(images) // columns)
    sheet = np.zeros((rows * TILE_SIDE, columns * TILE_SIDE), np.uint8)
    for number, image in enumerate(images):
        tile = Image.fromarray(image)
        tile.thumbnail((TILE_SIDE, TILE_SIDE), Image.Resampling.BILINEAR)
        row, column = divmod(number, columns)
        top = row * TILE_SIDE + (TILE_SIDE - tile.height) // 2
        left = column * TILE_SIDE + (TILE_SIDE - tile.width) // 2
        sheet[top : top + tile.height, left : left + tile.width] = np.asarray(tile)
    return sheet


def shuffle_tiles(image: Gray, rng: np.random.Generator) -> Gray:
    """Return an image with shuffled and rotated tiles: its texture without its anatomy.

    Args:
        image: uint8[..., S, S].
        rng: random generator.
    """
    tiles = int(rng.integers(2, 6))
    step = image.shape[-1] // tiles
    places = [(i * step, j * step) for i in range(tiles) for j in range(tiles)]
    mixed = image.copy()
    for (top, left), number in zip(places, rng.permutation(len(places)), strict=True):
        y, x = places[number]
        tile = image[..., y : y + step, x : x + step]
        mixed[..., top : top + step, left : left + step] = np.rot90(
            tile, int(rng.integers(4)), axes=(-2, -1)
        )
    return mixed


def evaluation_outliers(per_kind: int, seed: int = 0) -> Iterator[tuple[str, Gray]]:
    """Yield (kind, uint8[H, W]) of images that may reach a router by mistake.

    Args:
        per_kind: number of images of each kind; there may be fewer of other modalities.
        seed: of the generated images.

    Raises:
        ModuleNotFoundError: The packages that ship them, of the extra `train`, are not installed.
    """
    rng = np.random.default_rng(seed)
    makers: tuple[Callable[[], npt.NDArray[np.floating]], ...] = (
        lambda: rng.normal(0, 1, (300, 260)),
        lambda: rng.normal(rng.uniform(60, 200), rng.uniform(0.2, 1), (300, 260)),
        lambda: _test_pattern(rng),
        lambda: _page(rng),
    )
    for kind, make in zip(SYNTHETIC_KINDS, makers, strict=True):
        for _ in range(per_kind):
            yield kind, _to_gray(make())
    photographs = list(_photographs())
    for number in range(per_kind):
        yield "photograph", _random_crop(photographs[number % len(photographs)], rng)
    for kind, files in _modality_files().items():
        images = [image for file in files for image in _frames(file)]
        for number in range(min(per_kind, 4 * len(images))):
            yield kind, _random_crop(images[number % len(images)], rng, min_share=0.8)


def _test_pattern(rng: np.random.Generator) -> npt.NDArray[np.floating]:
    """Return a quality assurance pattern: gray steps, line pairs, a grid and a low-contrast disc."""
    side = 400
    image = Image.new("L", (side, side), int(rng.integers(80, 180)))
    draw = ImageDraw.Draw(image)
    spacing = int(rng.integers(20, 60))
    for at in range(0, side, spacing):
        draw.line((at, 0, at, side), fill=255)
        draw.line((0, at, side, at), fill=255)
    steps = int(rng.integers(6, 17))
    for step in range(steps):
        left = 40 + step * 320 // steps
        draw.rectangle((left, 60, left + 320 // steps, 120), fill=round(255 * step / (steps - 1)))
    for pair in range(12):
        left = 60 + pair * (6 + pair)
        draw.rectangle((left, 180, left + 2 + pair // 2, 240), fill=0)
    draw.ellipse((150, 270, 250, 370), fill=int(rng.integers(90, 170)), outline=255)
    return np.asarray(image, dtype=np.float32) + rng.normal(0, 3, (side, side))


def _page(rng: np.random.Generator) -> npt.NDArray[np.floating]:
    """Return a page of text."""
    image = Image.new("L", (420, 594), 250)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(int(rng.integers(9, 18)))
    letters = list(string.ascii_letters + "     .,")
    for top in range(40, 550, int(rng.integers(16, 30))):
        if rng.random() < 0.85:
            words = "".join(rng.choice(letters, int(rng.integers(5, 60))))
            draw.text((40, top), words, fill=int(rng.integers(0, 80)), font=font)
    return np.asarray(image, dtype=np.float32)


def _photographs() -> Iterator[Gray]:
    """Yield scikit-learn's photographs of a palace and a flower."""
    from sklearn.datasets import load_sample_images

    for photograph in load_sample_images().images:
        yield np.asarray(Image.fromarray(photograph).convert("L"))


def _modality_files() -> dict[str, list[Path]]:
    """Return files of pydicom by modality."""
    from pydicom.data import get_testdata_file

    named = {
        "CT": ["CT_small.dcm", "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm"],
        "MR": ["MR_small.dcm", "examples_jpeg2k.dcm", "emri_small.dcm"],
        "US": ["examples_palette.dcm", "examples_ybr_color.dcm", "US1_UNCI.dcm"],
    }
    found = {
        kind: [get_testdata_file(name, download=False) for name in names]
        for kind, names in named.items()
    }
    return {kind: [Path(f) for f in files if f] for kind, files in found.items()}


def _frames(file: Path) -> list[Gray]:
    """Return the first frames of a DICOM file, stretched to 8 bits."""
    from pydicom import dcmread
    from pydicom.pixels.utils import iter_pixels

    frames = []
    for number, pixels in enumerate(iter_pixels(dcmread(file))):
        gray = pixels if pixels.ndim == 2 else pixels.mean(axis=-1)
        frames.append(_to_gray(gray.astype(np.float32)))
        if number + 1 == MAX_FRAMES:
            break
    return frames


def _random_crop(image: Gray, rng: np.random.Generator, min_share: float = 0.4) -> Gray:
    height, width = image.shape
    h, w = (round(side * rng.uniform(min_share, 1)) for side in (height, width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    return image[top : top + h, left : left + w]


def _to_gray(values: npt.NDArray[np.floating]) -> Gray:
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / max(high - low, 1e-9))
    return np.asarray(scaled.round(), dtype=np.uint8)
