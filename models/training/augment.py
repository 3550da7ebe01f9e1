"""Random changes of a film that keep its anatomy, against what a network could learn instead of it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Gray = npt.NDArray[np.uint8]


def augment(gray: Gray, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a random variant of a film.

    Args:
        gray: uint8[H, W].
        rng: source of randomness.

    Returns:
        float32[h, w] in 0..255; size and aspect ratio differ from the input's.
    """
    film = Image.fromarray(gray)
    if rng.random() < 0.85:
        film = _crop(film, rng)
    if rng.random() < 0.5:
        film = film.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        film = film.rotate(
            rng.uniform(-20, 20), Image.Resampling.BILINEAR, expand=bool(rng.random() < 0.5)
        )
    if rng.random() < 0.04:
        film = film.rotate(90 * int(rng.integers(1, 4)), expand=True)
    if rng.random() < 0.2:
        film = film.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    if rng.random() < 0.25:
        film = _border(film, rng)
    values = np.asarray(film, dtype=np.float32) / 255.0
    values = values ** math.exp(rng.uniform(-0.6, 0.6))
    if rng.random() < 0.2:
        values = _equalise_softly(values, rng)
    if rng.random() < 0.12:
        values = 1.0 - values
    if rng.random() < 0.4:
        values = values + rng.normal(0, rng.uniform(0.005, 0.05), values.shape).astype(np.float32)
    return np.asarray(np.clip(values, 0, 1) * 255.0, dtype=np.float32)


def _crop(film: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = film.size
    area, stretch = rng.uniform(0.45, 1.0), math.exp(rng.uniform(-0.25, 0.25))
    w = min(width, max(16, round(width * math.sqrt(area) * stretch)))
    h = min(height, max(16, round(height * math.sqrt(area) / stretch)))
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return film.crop((left, top, left + w, top + h))


def _border(film: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = film.size
    margins = [int(rng.uniform(0, 0.15) * max(width, height)) for _ in range(4)]
    framed = Image.new(
        "L",
        (width + margins[0] + margins[2], height + margins[1] + margins[3]),
        int(rng.choice([0, 0, 255, int(rng.integers(0, 256))])),
    )
    framed.paste(film, (margins[0], margins[1]))
    return framed


def _equalise_softly(
    values: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    equal = np.interp(values, edges[1:], np.cumsum(counts) / values.size)
    return np.asarray(values + rng.uniform(0.3, 1.0) * (equal - values), dtype=np.float32)
