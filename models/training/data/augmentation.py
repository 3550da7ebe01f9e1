"""Random changes of an image that keep its anatomy, against what a network could learn instead of it.

Sources differ in crop, border, aspect ratio, tone curve, equalisation, resolution and burned-in marks;
every one of these tells a hospital, and so, in a small collection, a label. `PLAIN` varies the first
few a little; `STRONG` varies all of them, more than images differ.
"""

from __future__ import annotations

import functools
import io
import math
import string
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Gray = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float32]
Augmentation = Literal["plain", "strong"]
PLAIN, STRONG = get_args(Augmentation)
MIN_SIDE: Final = 16
WIDEST_FRAME: Final = 0.4
"""Most of a frame's breadth on one side, as a share of an image's long side."""
STACKED: Final = 0.2
"""Share of pairs that stand one above the other."""
LEAST_OF_PANEL: Final = 0.6
"""Least share of an image's breadth that is left of it in a pair."""
WHITE: Final = 255


def augment(gray: Gray, rng: np.random.Generator, augmentation: Augmentation = STRONG) -> Values:
    """Return a random variant of an image.

    Args:
        gray: uint8[H, W].
        rng: source of randomness.
        augmentation: how far variants go.

    Returns:
        float32[h, w] in 0..255; size and aspect ratio differ from the input's.
    """
    is_strong = augmentation == STRONG
    image = Image.fromarray(gray)
    if rng.random() < 0.85:
        image = _crop(image, rng, least=0.3 if is_strong else 0.45)
    if is_strong and rng.random() < 0.3:
        image = _stretch(image, rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        image = image.rotate(
            rng.uniform(-20, 20), Image.Resampling.BILINEAR, expand=bool(rng.random() < 0.5)
        )
    if rng.random() < 0.04:
        image = image.rotate(90 * int(rng.integers(1, 4)), expand=True)
    if is_strong and rng.random() < 0.2:
        image = image.filter(_unsharp(rng))
    if rng.random() < 0.2:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.6)))
    if is_strong and rng.random() < 0.2:
        image = _collimated(image, rng)
    if is_strong and rng.random() < 0.3:
        image = _annotated(image, rng)
    if rng.random() < (0.35 if is_strong else 0.25):
        image = _border(image, rng)
    if is_strong and rng.random() < 0.25:
        image = _degraded(image, rng)
    gamma = math.exp(rng.uniform(-0.6, 0.6))
    values: Values = np.power(np.asarray(image, dtype=np.float32) / WHITE, gamma, dtype=np.float32)
    if is_strong and rng.random() < 0.4:
        values = _toned(values, rng)
    if rng.random() < (0.25 if is_strong else 0.2):
        values = _equalise_softly(values, rng)
    if rng.random() < 0.12:
        values = 1.0 - values
    if is_strong and rng.random() < 0.15:
        values = _blotted(values, rng)
    if rng.random() < 0.4:
        values = values + rng.normal(0, rng.uniform(0.005, 0.05), values.shape).astype(np.float32)
    return np.asarray(np.clip(values, 0, 1) * WHITE, dtype=np.float32)


def framed(image: Gray, rng: np.random.Generator) -> Gray:
    """Return an image within a wide frame, as on a page, a screen or a plate that is too large for it.

    Args:
        image: uint8[H, W].
        rng: source of randomness.

    Returns:
        uint8[h, w], as long as `image`; the frame is of one gray level, on all sides or on two.
    """
    margins = (rng.uniform(0, WIDEST_FRAME, (2, 2)) * max(image.shape)).astype(int)
    bare = int(rng.integers(3))  # above and below, at the sides, or nowhere
    if bare < len(margins):
        margins[bare] = 0
    level = _level_of_frame(rng)
    whole = Image.fromarray(np.pad(image, margins, constant_values=level))
    whole.thumbnail((max(image.shape), max(image.shape)), Image.Resampling.BILINEAR)
    return np.asarray(whole)


def beside(one: Gray, other: Gray, rng: np.random.Generator) -> Gray:
    """Return two images side by side or stacked, as consoles and articles show views.

    Args:
        one: uint8[H, W].
        other: uint8[H', W'], of the same label. The higher one is scaled to the other's height.
        rng: source of randomness.

    Returns:
        uint8[h, w], no longer than `one`, perhaps with a strip of one gray level between the two.
    """
    is_above = rng.random() < STACKED
    panels = [_panel(image, rng, is_above) for image in (one, other)]
    if rng.random() < 0.5:
        panels.reverse()
    side = min(panel.height for panel in panels)
    panels = [
        panel.resize(
            (max(MIN_SIDE, round(panel.width * side / panel.height)), side),
            Image.Resampling.BILINEAR,
        )
        for panel in panels
    ]
    gap = int(rng.integers(0, 1 + max(1, side // 20)))
    both = Image.new(
        "L",
        (panels[0].width + gap + panels[1].width, side),
        int(rng.choice([0, WHITE, int(rng.integers(0, 256))])),
    )
    both.paste(panels[0], (0, 0))
    both.paste(panels[1], (panels[0].width + gap, 0))
    both.thumbnail((max(one.shape), max(one.shape)), Image.Resampling.BILINEAR)
    shown = np.asarray(both)
    return shown.T if is_above else shown


def _panel(image: Gray, rng: np.random.Generator, is_above: bool) -> Image.Image:
    """Cut an image across the direction that panels stand in; on its side, if they are stacked."""
    across = image.T if is_above else image
    width = across.shape[1]
    kept = max(min(width, MIN_SIDE), round(width * rng.uniform(LEAST_OF_PANEL, 1.0)))
    left = (width - kept) // 2
    return Image.fromarray(np.ascontiguousarray(across[:, left : left + kept]))


def mix_style(image: Gray, other: Gray, rng: np.random.Generator) -> Gray:
    """Return an image with amplitudes of its spectrum drawn towards those of another.

    Amplitudes hold tone and texture, which are the scanner's; phases hold the anatomy (Xu et al. 2021,
    "A Fourier-based Framework for Domain Generalization").

    Args:
        image: uint8[..., S, S].
        other: of the same shape.
        rng: source of randomness.
    """
    mine, theirs = np.fft.rfft2(image), np.fft.rfft2(other)
    size = np.abs(mine)
    mixed = size + rng.uniform(0, 1) * (np.abs(theirs) - size)
    changed = np.fft.irfft2(mine * (mixed / np.maximum(size, 1e-6)), s=image.shape[-2:])
    return np.asarray(np.clip(changed, 0, WHITE).round(), dtype=np.uint8)


def _crop(image: Image.Image, rng: np.random.Generator, least: float) -> Image.Image:
    width, height = image.size
    area, stretch = rng.uniform(least, 1.0), math.exp(rng.uniform(-0.25, 0.25))
    w = min(width, max(MIN_SIDE, round(width * math.sqrt(area) * stretch)))
    h = min(height, max(MIN_SIDE, round(height * math.sqrt(area) / stretch)))
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return image.crop((left, top, left + w, top + h))


def _stretch(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Some collections are squeezed into a square."""
    factor = math.exp(rng.uniform(-0.3, 0.3))
    width = max(MIN_SIDE, round(image.width * factor))
    return image.resize((width, image.height), Image.Resampling.BILINEAR)


def _unsharp(rng: np.random.Generator) -> ImageFilter.UnsharpMask:
    """Edge enhancement, as consoles do it."""
    return ImageFilter.UnsharpMask(rng.uniform(1, 8), int(rng.integers(40, 250)), 0)


def _collimated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Darken what lies outside a tilted rectangle."""
    width, height = image.size
    opening = Image.new("L", image.size, 0)
    low, high = rng.uniform(0, 0.16, 2), 1 - rng.uniform(0, 0.16, 2)
    ImageDraw.Draw(opening).rectangle(
        (low[0] * width, low[1] * height, high[0] * width, high[1] * height), fill=WHITE
    )
    opening = opening.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR)
    outside = Image.new("L", image.size, int(rng.choice([0, 0, int(rng.integers(0, 70))])))
    return Image.composite(image, outside, opening)


def _annotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Burn in letters, lines of text and arrows, mostly near the edges."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for _ in range(int(rng.integers(1, 5))):
        ink = int(rng.choice([WHITE, WHITE, 0, int(rng.integers(100, 256))]))
        x, y = _edgewise(rng) * width, _edgewise(rng) * height
        if rng.random() < 0.25:
            end = (x + rng.normal(0, 0.1) * width, y + rng.normal(0, 0.1) * height)
            draw.line((x, y, *end), fill=ink, width=max(1, round(0.01 * width)))
            continue
        size = max(8, round(max(image.size) * float(rng.choice([0.03, 0.05, 0.08]))))
        letters = string.ascii_uppercase + string.digits
        count = 1 if size > 0.06 * max(image.size) else int(rng.integers(1, 14))
        words = "".join(rng.choice(list(letters + " "), count))
        draw.text((x, y), words, fill=ink, font=font_of(size), anchor="mm")
    return image


def _edgewise(rng: np.random.Generator) -> float:
    """A place in 0..1, twice as likely near one end as in the middle."""
    return float(rng.beta(0.6, 0.6))


@functools.lru_cache(maxsize=64)
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font for letters that are burned in, of a size in pixels."""
    return ImageFont.load_default(size)


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    margins = [int(rng.uniform(0, 0.15) * max(width, height)) for _ in range(4)]
    framed = Image.new(
        "L",
        (width + margins[0] + margins[2], height + margins[1] + margins[3]),
        _level_of_frame(rng),
    )
    framed.paste(image, (margins[0], margins[1]))
    return framed


def _level_of_frame(rng: np.random.Generator) -> int:
    """Mostly black or white."""
    return int(rng.choice([0, 0, WHITE, int(rng.integers(0, 256))]))


def _degraded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Of low resolution, or compressed as pictures on the web are."""
    if rng.random() < 0.5:
        scale = rng.uniform(0.25, 0.7)
        small = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
        image = image.resize(small, Image.Resampling.BILINEAR).resize(
            image.size, Image.Resampling.BILINEAR
        )
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(rng.integers(15, 80)))
    return Image.open(stream)


def _toned(values: Values, rng: np.random.Generator) -> Values:
    """Through a random tone curve that never falls."""
    knots = np.sort(rng.uniform(0, 1, 4))
    curve = np.array([0.0, *knots, 1.0], dtype=np.float32)
    return np.interp(values, np.linspace(0, 1, len(curve)), curve).astype(np.float32)


def _equalise_softly(values: Values, rng: np.random.Generator) -> Values:
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    equal = np.interp(values, edges[1:], np.cumsum(counts) / values.size)
    return np.asarray(values + rng.uniform(0.3, 1.0) * (equal - values), dtype=np.float32)


def _blotted(values: Values, rng: np.random.Generator) -> Values:
    """With one region hidden, so that no single organ decides."""
    height, width = values.shape
    h, w = (max(1, round(side * rng.uniform(0.1, 0.35))) for side in (height, width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    blotted = values.copy()
    blotted[top : top + h, left : left + w] = rng.uniform(0, 1)
    return blotted
