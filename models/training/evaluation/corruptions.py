"""Corrupted images, to measure robustness against changes that should not affect the label."""

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

from models.training.data.augmentation import WHITE, font_of, side_by_side
from models.training.data.images import Gray8, LabeledImage, load_image, to_uint8
from transforms.imaging.plates import network_inputs, split_plate
from transforms.imaging.preprocessing import Gray, preprocess

UNCHANGED: Final = "unchanged"
PAIRED: Final = "paired with another"
"""Shown side by side with another image of the same label and source."""
SINGLE_VIEWS: Final = "single views of plates"
"""The views of images that show two side by side, each alone."""
DOWNSAMPLED_SIDE: Final = 96
TEXT: Final = "PORTABLE AP 12:30"

CORRUPTIONS: Final[dict[str, Callable[[Gray], Gray]]] = {
    "inverted": lambda gray: np.asarray(float(gray.max()) + float(gray.min()) - gray, np.float32),
    "rotated by 90°": lambda gray: np.rot90(gray),
    "rotated by 180°": lambda gray: np.rot90(gray, 2),
    "mirrored": lambda gray: gray[:, ::-1],
    "centre crop": lambda gray: _centre_crop(gray),
    "squeezed to a square": lambda gray: _resize(gray, (min(gray.shape), min(gray.shape))),
    "histogram equalized": lambda gray: np.asarray(
        ImageOps.equalize(Image.fromarray(to_uint8(gray)))
    ),
    "gamma 0.4": lambda gray: _apply_gamma(gray, 0.4),
    "gamma 2.5": lambda gray: _apply_gamma(gray, 2.5),
    f"downsampled to {DOWNSAMPLED_SIDE} pixels": lambda gray: _downsample(gray),
    "burned-in text": lambda gray: _burn_in_text(gray),
    "black frame": lambda gray: _add_frame(to_uint8(gray), 0),
    "white frame": lambda gray: _add_frame(to_uint8(gray), WHITE),
}
"""Changes by mistake or habit that vary between sites."""


def load_corrupted(images: Sequence[LabeledImage], input_size: int) -> dict[str, list[Gray8]]:
    """Load images with every corruption; an image at its own size is in memory only meanwhile.

    Args:
        images: at least one.
        input_size: of the network, in pixels.

    Returns:
        what `network_inputs` returns for each image, by name: `UNCHANGED`, `CORRUPTIONS` and `PAIRED`.

    Raises:
        DatasetError: An image cannot be read.
    """
    partners = _partners(images)

    def load(number: int) -> list[Gray8]:
        gray = load_image(images[number].path, input_size)
        corrupted = [corrupt(gray) for corrupt in CORRUPTIONS.values()]
        other = to_uint8(load_image(images[partners[number]].path, input_size))
        pair = side_by_side(to_uint8(gray), other, np.random.default_rng(number))
        return [network_inputs(one, input_size) for one in (gray, *corrupted, pair)]

    with ThreadPoolExecutor() as pool:
        by_image = list(pool.map(load, range(len(images))))
    names = (UNCHANGED, *CORRUPTIONS, PAIRED)
    return dict(zip(names, map(list, zip(*by_image, strict=True)), strict=True))


def load_single_views(
    images: Sequence[LabeledImage], input_size: int
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Load the single views of the images that show two side by side.

    Args:
        images: any number.
        input_size: of the network, in pixels.

    Returns:
        uint8[N, 1, input_size, input_size] of N views, and for each the number of its image, int64[N].

    Raises:
        DatasetError: An image cannot be read.
    """

    def load(image: LabeledImage) -> list[npt.NDArray[np.uint8]]:
        views = split_plate(load_image(image.path, input_size))
        return [preprocess(view, input_size) for view in views]

    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(load, images))
    views = [view for of_image in loaded for view in of_image]
    inputs = np.stack(views) if views else np.empty((0, 1, input_size, input_size), np.uint8)
    return torch.from_numpy(inputs), np.repeat(np.arange(len(images)), list(map(len, loaded)))


def _partners(images: Sequence[LabeledImage]) -> list[int]:
    """Return for each image another one of its label and source, or itself if it is the only one."""
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


def _resize(gray: Gray, size: tuple[int, int]) -> Gray:
    image = Image.fromarray(np.ascontiguousarray(gray, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _downsample(gray: Gray) -> Gray:
    height, width = gray.shape
    scale = min(1.0, DOWNSAMPLED_SIDE / max(height, width))
    return _resize(gray, (max(1, round(width * scale)), max(1, round(height * scale))))


def _apply_gamma(gray: Gray, gamma: float) -> Gray:
    values = to_uint8(gray) / np.float32(WHITE)
    return np.asarray(WHITE * values**gamma, np.float32)


def _burn_in_text(gray: Gray) -> Gray:
    """Write white text across most of the width, at a third of the height."""
    image = Image.fromarray(to_uint8(gray).copy())
    font = font_of(max(8, image.width // len(TEXT)))
    position = (image.width // 2, image.height // 3)
    ImageDraw.Draw(image).text(position, TEXT, fill=WHITE, font=font, anchor="mm")
    return np.asarray(image)


def _add_frame(gray: Gray8, level: int) -> Gray:
    """Add a quarter of the long side on every side."""
    return np.asarray(np.pad(gray, max(gray.shape) // 4, constant_values=level), np.uint8)
