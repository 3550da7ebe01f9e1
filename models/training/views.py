"""Films as they are, and as they might be shown otherwise: what a network should not be moved by."""

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

from models.training.augment import WHITE, beside, font_of
from models.training.films import Film, as_uint8, load_film
from transforms.imaging.preprocessing import Gray, preprocess

AS_IT_IS: Final = "as it is"
PAIRED: Final = "beside another one"
"""Films of which each shares one with another of its label and source."""
COARSE_SIDE: Final = 96
LETTERS: Final = "PORTABLE AP 12:30"

VARIANTS: Final[dict[str, Callable[[Gray], Gray]]] = {
    "inverted": lambda gray: np.asarray(float(gray.max()) + float(gray.min()) - gray, np.float32),
    "rotated by 90°": lambda gray: np.rot90(gray),
    "rotated by 180°": lambda gray: np.rot90(gray, 2),
    "mirrored": lambda gray: gray[:, ::-1],
    "middle half": lambda gray: _middle(gray),
    "squeezed into a square": lambda gray: _resized(gray, (min(gray.shape), min(gray.shape))),
    "equalised": lambda gray: np.asarray(ImageOps.equalize(Image.fromarray(as_uint8(gray)))),
    "of gamma 0.4": lambda gray: _toned(gray, 0.4),
    "of gamma 2.5": lambda gray: _toned(gray, 2.5),
    f"of {COARSE_SIDE} pixels": lambda gray: _coarse(gray),
    "letters burned in": lambda gray: _lettered(gray),
    "in a black frame": lambda gray: _in_frame(as_uint8(gray), 0),
    "in a white frame": lambda gray: _in_frame(as_uint8(gray), WHITE),
}
"""What is done to films by mistake or of need, by one hospital and not by another."""


def load_views(films: Sequence[Film], size: int) -> dict[str, Tensor]:
    """Load films in every way.

    A film is in memory at its own size only while its views are made.

    Args:
        films: at least one.
        size: side of the network's input, in pixels.

    Returns:
        uint8[N, 1, size, size] of films `AS_IT_IS`, of each of `VARIANTS`, and `PAIRED`.

    Raises:
        FilmsError: one cannot be read.
    """
    partners = _partners(films)

    shape = (len(films), 1, size, size)
    views = {name: np.empty(shape, np.uint8) for name in (AS_IT_IS, *VARIANTS, PAIRED)}

    def fill(number: int) -> None:
        gray = load_film(films[number].path, size)
        views[AS_IT_IS][number] = preprocess(gray, size)
        for name, change in VARIANTS.items():
            views[name][number] = preprocess(change(gray), size)
        other = as_uint8(load_film(films[partners[number]].path, size))
        pair = beside(as_uint8(gray), other, np.random.default_rng(number))
        views[PAIRED][number] = preprocess(pair, size)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fill, range(len(films))))
    return {name: torch.from_numpy(view) for name, view in views.items()}


def _partners(films: Sequence[Film]) -> list[int]:
    """For each film one of its label and source; the only one of these stands beside itself."""
    alike = defaultdict(list)
    for number, film in enumerate(films):
        alike[film.label, film.source].append(number)
    rng = np.random.default_rng(0)
    partners = []
    for number, film in enumerate(films):
        others = [one for one in alike[film.label, film.source] if one != number] or [number]
        partners.append(int(rng.choice(others)))
    return partners


def _middle(gray: Gray) -> Gray:
    height, width = gray.shape
    return gray[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _resized(gray: Gray, size: tuple[int, int]) -> Gray:
    film = Image.fromarray(np.ascontiguousarray(gray, dtype=np.float32))
    return np.asarray(film.resize(size, Image.Resampling.BILINEAR))


def _coarse(gray: Gray) -> Gray:
    height, width = gray.shape
    scale = min(1.0, COARSE_SIDE / max(height, width))
    return _resized(gray, (max(1, round(width * scale)), max(1, round(height * scale))))


def _toned(gray: Gray, gamma: float) -> Gray:
    values = as_uint8(gray) / np.float32(WHITE)
    return np.asarray(WHITE * values**gamma, np.float32)


def _lettered(gray: Gray) -> Gray:
    """With white letters across most of its width, a third of its height from above."""
    film = Image.fromarray(as_uint8(gray).copy())
    font = font_of(max(8, film.width // len(LETTERS)))
    place = (film.width // 2, film.height // 3)
    ImageDraw.Draw(film).text(place, LETTERS, fill=WHITE, font=font, anchor="mm")
    return np.asarray(film)


def _in_frame(gray: npt.NDArray[np.uint8], level: int) -> Gray:
    """With a quarter of its long side more on every side."""
    return np.asarray(np.pad(gray, max(gray.shape) // 4, constant_values=level), np.uint8)
