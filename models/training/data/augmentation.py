"""Random changes of an image that keep its anatomy.

Sources differ in crop, border, aspect ratio, tone curve, equalization, resolution and burned-in marks. In
a small collection each of these reveals the source, and with it the label. `PLAIN` varies the first few a
little; `STRONG` varies all of them, more than real images differ.
"""

from __future__ import annotations

import functools
import io
import math
import string
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from models.training.options import COLLIMATED_SHARE
from transforms.core.choices import STRONG

Gray: TypeAlias = npt.NDArray[np.uint8]
Values: TypeAlias = npt.NDArray[np.float32]
Augmentation: TypeAlias = Literal["plain", "strong"]
MIN_SIDE: Final = 16
MAX_FRAME_SHARE: Final = 0.4
"""Maximum width of a frame on one side, as a share of the image's long side."""
STACKED_SHARE: Final = 0.2
"""Share of pairs that are one above the other."""
MIN_PANEL_SHARE: Final = 0.6
"""Minimum share of an image's width that a pair shows."""
WHITE: Final = 255


def augment(
    gray: Gray,
    rng: np.random.Generator,
    augmentation: Augmentation = STRONG,
    collimation: float = COLLIMATED_SHARE,
) -> Values:
    """Return a random variant of an image.

    Args:
        gray: uint8[H, W].
        rng: random generator.
        augmentation: strength of the changes.
        collimation: share of images with darkened margins, if the changes are strong.

    Returns:
        float32[h, w] in 0..255; size and aspect ratio may differ from the input's.
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
    if is_strong and rng.random() < collimation:
        image = _collimate(image, rng)
    if is_strong and rng.random() < 0.3:
        image = _annotate(image, rng)
    if rng.random() < (0.35 if is_strong else 0.25):
        image = _add_border(image, rng)
    if is_strong and rng.random() < 0.25:
        image = _degrade(image, rng)
    gamma = math.exp(rng.uniform(-0.6, 0.6))
    values: Values = np.power(np.asarray(image, dtype=np.float32) / WHITE, gamma, dtype=np.float32)
    if is_strong and rng.random() < 0.4:
        values = _change_tone(values, rng)
    if rng.random() < (0.25 if is_strong else 0.2):
        values = _equalize_partly(values, rng)
    if rng.random() < 0.12:
        values = 1.0 - values
    if is_strong and rng.random() < 0.15:
        values = _erase_region(values, rng)
    if rng.random() < 0.4:
        values = values + rng.normal(0, rng.uniform(0.005, 0.05), values.shape).astype(np.float32)
    return np.asarray(np.clip(values, 0, 1) * WHITE, dtype=np.float32)


def add_frame(image: Gray, rng: np.random.Generator) -> Gray:
    """Return an image within a wide frame, as on a page, a screen or an oversized plate.

    Args:
        image: uint8[H, W].
        rng: random generator.

    Returns:
        uint8[h, w] with the long side of `image`; the frame has one gray level, on all or on two sides.
    """
    margins = (rng.uniform(0, MAX_FRAME_SHARE, (2, 2)) * max(image.shape)).astype(int)
    unframed = int(rng.integers(3))  # top and bottom, left and right, or none
    if unframed < len(margins):
        margins[unframed] = 0
    level = _frame_level(rng)
    framed = Image.fromarray(np.pad(image, margins, constant_values=level))
    framed.thumbnail((max(image.shape), max(image.shape)), Image.Resampling.BILINEAR)
    return np.asarray(framed)


def side_by_side(first: Gray, second: Gray, rng: np.random.Generator) -> Gray:
    """Return two images side by side or stacked, as consoles and articles show views.

    Args:
        first: uint8[H, W].
        second: uint8[H', W'], of the same label. The taller one is scaled to the other's height.
        rng: random generator.

    Returns:
        uint8[h, w], at most as long as `first`, possibly with a strip of one gray level between.
    """
    is_stacked = rng.random() < STACKED_SHARE
    panels = [_panel(image, rng, is_stacked) for image in (first, second)]
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
    both.thumbnail((max(first.shape), max(first.shape)), Image.Resampling.BILINEAR)
    shown = np.asarray(both)
    return shown.T if is_stacked else shown


def _panel(image: Gray, rng: np.random.Generator, is_stacked: bool) -> Image.Image:
    """Crop an image across the direction of the panels; transposed if they are stacked."""
    oriented = image.T if is_stacked else image
    width = oriented.shape[1]
    kept = max(min(width, MIN_SIDE), round(width * rng.uniform(MIN_PANEL_SHARE, 1.0)))
    left = (width - kept) // 2
    return Image.fromarray(np.ascontiguousarray(oriented[:, left : left + kept]))


def mix_style(image: Gray, other: Gray, rng: np.random.Generator) -> Gray:
    """Return an image whose amplitude spectrum is mixed with another image's.

    Amplitudes carry tone and texture, which vary by scanner; phases carry the anatomy (Xu et al. 2021,
    "A Fourier-based Framework for Domain Generalization").

    Args:
        image: uint8[..., S, S].
        other: same shape.
        rng: random generator.
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
    """Change the aspect ratio; some collections are resized to squares."""
    factor = math.exp(rng.uniform(-0.3, 0.3))
    width = max(MIN_SIDE, round(image.width * factor))
    return image.resize((width, image.height), Image.Resampling.BILINEAR)


def _unsharp(rng: np.random.Generator) -> ImageFilter.UnsharpMask:
    """Return an edge enhancement as on consoles."""
    return ImageFilter.UnsharpMask(rng.uniform(1, 8), int(rng.integers(40, 250)), 0)


def _collimate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Darken the area outside a tilted rectangle."""
    width, height = image.size
    opening = Image.new("L", image.size, 0)
    low, high = rng.uniform(0, 0.16, 2), 1 - rng.uniform(0, 0.16, 2)
    ImageDraw.Draw(opening).rectangle(
        (low[0] * width, low[1] * height, high[0] * width, high[1] * height), fill=WHITE
    )
    opening = opening.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR)
    outside = Image.new("L", image.size, int(rng.choice([0, 0, int(rng.integers(0, 70))])))
    return Image.composite(image, outside, opening)


def _annotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Burn in letters, text and lines, mostly near the edges."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for _ in range(int(rng.integers(1, 5))):
        level = int(rng.choice([WHITE, WHITE, 0, int(rng.integers(100, 256))]))
        x, y = _near_edge(rng) * width, _near_edge(rng) * height
        if rng.random() < 0.25:
            end = (x + rng.normal(0, 0.1) * width, y + rng.normal(0, 0.1) * height)
            draw.line((x, y, *end), fill=level, width=max(1, round(0.01 * width)))
            continue
        size = max(8, round(max(image.size) * float(rng.choice([0.03, 0.05, 0.08]))))
        letters = string.ascii_uppercase + string.digits
        count = 1 if size > 0.06 * max(image.size) else int(rng.integers(1, 14))
        words = "".join(rng.choice(list(letters + " "), count))
        draw.text((x, y), words, fill=level, font=font_of(size), anchor="mm")
    return image


def _near_edge(rng: np.random.Generator) -> float:
    """Return a position in 0..1, more likely near the ends."""
    return float(rng.beta(0.6, 0.6))


@functools.lru_cache(maxsize=64)
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font of a size in pixels."""
    return ImageFont.load_default(size)


def _add_border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    margins = [int(rng.uniform(0, 0.15) * max(width, height)) for _ in range(4)]
    bordered = Image.new(
        "L",
        (width + margins[0] + margins[2], height + margins[1] + margins[3]),
        _frame_level(rng),
    )
    bordered.paste(image, (margins[0], margins[1]))
    return bordered


def _frame_level(rng: np.random.Generator) -> int:
    """Return a gray level, mostly black or white."""
    return int(rng.choice([0, 0, WHITE, int(rng.integers(0, 256))]))


def _degrade(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Compress as JPEG, sometimes at low resolution."""
    if rng.random() < 0.5:
        scale = rng.uniform(0.25, 0.7)
        small = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
        image = image.resize(small, Image.Resampling.BILINEAR).resize(
            image.size, Image.Resampling.BILINEAR
        )
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(rng.integers(15, 80)))
    return Image.open(stream)


def _change_tone(values: Values, rng: np.random.Generator) -> Values:
    """Apply a random monotonic tone curve."""
    knots = np.sort(rng.uniform(0, 1, 4))
    curve = np.array([0.0, *knots, 1.0], dtype=np.float32)
    return np.interp(values, np.linspace(0, 1, len(curve)), curve).astype(np.float32)


def _equalize_partly(values: Values, rng: np.random.Generator) -> Values:
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    equal = np.interp(values, edges[1:], np.cumsum(counts) / values.size)
    return np.asarray(values + rng.uniform(0.3, 1.0) * (equal - values), dtype=np.float32)


def _erase_region(values: Values, rng: np.random.Generator) -> Values:
    """Hide one region, so that no single organ decides."""
    height, width = values.shape
    h, w = (max(1, round(side * rng.uniform(0.1, 0.35))) for side in (height, width))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    erased = values.copy()
    erased[top : top + h, left : left + w] = rng.uniform(0, 1)
    return erased
