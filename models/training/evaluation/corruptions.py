"""Images as they are, and as they might be shown otherwise: what a network should not be moved by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from models.training.data.augmentation import WHITE, beside, font_of
from models.training.data.images import LabeledImage, load_image, to_uint8
from transforms.imaging.preprocessing import Gray, preprocess

ORIGINAL: Final = "unchanged"
PAIRED: Final = "paired with another"
"""Images of which each shares one with another of its label and source."""
COARSE_SIDE: Final = 96
LETTERS: Final = "PORTABLE AP 12:30"

CORRUPTIONS: Final[dict[str, Callable[[Gray], Gray]]] = {
    "inverted": lambda gray: np.asarray(float(gray.max()) + float(gray.min()) - gray, np.float32),
    "rotated by 90°": lambda gray: np.rot90(gray),
    "rotated by 180°": lambda gray: np.rot90(gray, 2),
    "mirrored": lambda gray: gray[:, ::-1],
    "centre crop": lambda gray: _centre_crop(gray),
    "squeezed to a square": lambda gray: _resized(gray, (min(gray.shape), min(gray.shape))),
    "histogram equalized": lambda gray: np.asarray(
        ImageOps.equalize(Image.fromarray(to_uint8(gray)))
    ),
    "gamma 0.4": lambda gray: _toned(gray, 0.4),
    "gamma 2.5": lambda gray: _toned(gray, 2.5),
    f"of {COARSE_SIDE} pixels": lambda gray: _coarse(gray),
    "burned-in text": lambda gray: _lettered(gray),
    "black frame": lambda gray: _in_frame(to_uint8(gray), 0),
    "white frame": lambda gray: _in_frame(to_uint8(gray), WHITE),
}
"""What is done to images by mistake or of need, by one hospital and not by another."""


def load_corrupted(images: Sequence[LabeledImage], size: int) -> dict[str, Tensor]:
    """Load images in every way.

    An image is in memory at its own size only while its views are made.

    Args:
        images: at least one.
        size: side of the network's input, in pixels.

    Returns:
        uint8[N, 1, size, size] of images `ORIGINAL`, of each of `CORRUPTIONS`, and `PAIRED`.

    Raises:
        DatasetError: one cannot be read.
    """
    partners = _partners(images)

    shape = (len(images), 1, size, size)
    corrupted = {name: np.empty(shape, np.uint8) for name in (ORIGINAL, *CORRUPTIONS, PAIRED)}

    def fill(number: int) -> None:
        gray = load_image(images[number].path, size)
        corrupted[ORIGINAL][number] = preprocess(gray, size)
        for name, change in CORRUPTIONS.items():
            corrupted[name][number] = preprocess(change(gray), size)
        other = to_uint8(load_image(images[partners[number]].path, size))
        pair = beside(to_uint8(gray), other, np.random.default_rng(number))
        corrupted[PAIRED][number] = preprocess(pair, size)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(images))))
    return {
        name: torch.from_numpy(corrupted_images) for name, corrupted_images in corrupted.items()
    }


def _partners(images: Sequence[LabeledImage]) -> list[int]:
    """For each image one of its label and source; the only one of these stands beside itself."""
    alike = defaultdict(list)
    for number, image in enumerate(images):
        alike[image.label, image.source].append(number)
    rng = np.random.default_rng(0)
    partners = []
    for number, image in enumerate(images):
        others = [one for one in alike[image.label, image.source] if one != number] or [number]
        partners.append(int(rng.choice(others)))
    return partners


def _centre_crop(gray: Gray) -> Gray:
    height, width = gray.shape
    return gray[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _resized(gray: Gray, size: tuple[int, int]) -> Gray:
    image = Image.fromarray(np.ascontiguousarray(gray, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _coarse(gray: Gray) -> Gray:
    height, width = gray.shape
    scale = min(1.0, COARSE_SIDE / max(height, width))
    return _resized(gray, (max(1, round(width * scale)), max(1, round(height * scale))))


def _toned(gray: Gray, gamma: float) -> Gray:
    values = to_uint8(gray) / np.float32(WHITE)
    return np.asarray(WHITE * values**gamma, np.float32)


def _lettered(gray: Gray) -> Gray:
    """With white letters across most of its width, a third of its height from above."""
    image = Image.fromarray(to_uint8(gray).copy())
    font = font_of(max(8, image.width // len(LETTERS)))
    place = (image.width // 2, image.height // 3)
    ImageDraw.Draw(image).text(place, LETTERS, fill=WHITE, font=font, anchor="mm")
    return np.asarray(image)


def _in_frame(gray: npt.NDArray[np.uint8], level: int) -> Gray:
    """With a quarter of its long side more on every side."""
    return np.asarray(np.pad(gray, max(gray.shape) // 4, constant_values=level), np.uint8)
