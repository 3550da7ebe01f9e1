"""Generated images in the manner of other modalities, to fit what recognizes outliers.

Sections of a body as of CT and MR, sectors of speckle as of ultrasound, and phantoms for quality
assurance; crude, but free of licences and patients.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Values: TypeAlias = npt.NDArray[np.floating]
SKIN: Final = (0.75, 0.97)
"""Range of the radius below which a section shows organs instead of skin and fat."""
SKULL: Final = (0.93, 0.86)
"""Radii at which the scalp and the skull of a head end."""


def section(rng: np.random.Generator, side: int) -> Values:
    """Return an axial section of a trunk: organs, lungs, a vertebra and ribs on black, 0..1."""
    center, radii = rng.normal(0, 0.03, 2), _radii(rng, (0.6, 1.3))
    body = _ellipse(side, center, radii, rng.normal(0, 0.15))
    inner = body < rng.uniform(*SKIN)
    skin, tissue = rng.uniform(0.15, 0.9, 2)
    image = np.where(inner, tissue, np.where(body < 1, skin, 0.0))
    for _ in range(int(rng.integers(2, 12))):
        organ = _ellipse_inside(rng, side, center, radii, (0.03, 0.22))
        image[(organ < 1) & inner] = np.clip(rng.normal(tissue, 0.2), 0, 1)
    if rng.random() < 0.4:
        air, size = rng.uniform(0, 0.15), radii * rng.uniform((0.25, 0.4), (0.4, 0.7))
        for shift in (-0.45, 0.45):
            at = center + np.array([shift * radii[0], 0])
            image[_ellipse(side, at, size, rng.uniform(-0.3, 0.3)) < 1] = air
    if rng.random() < 0.7:
        radius = rng.uniform(0.04, 0.09)
        at = center + np.array([0, rng.uniform(0.3, 0.75) * radii[1]])
        image[_ellipse(side, at, np.array([radius, 0.8 * radius])) < 1] = rng.uniform(0.8, 1)
        canal = at + np.array([0, 1.3 * radius])
        image[_ellipse(side, canal, radius * np.array([0.4, 0.3])) < 1] = rng.uniform(0, 1)
    if rng.random() < 0.5:
        y, x = _grid(side)
        ribs = np.sin(np.arctan2(x, y) * rng.integers(3, 14) + rng.uniform(0, 6))
        ring = np.abs(body - rng.uniform(0.8, 0.95)) < rng.uniform(0.01, 0.06)
        image[ring & (ribs > rng.uniform(-1, 0.7))] = rng.uniform(0.7, 1)
    image += (body < 1) * (cloud(rng, side) - 0.5) * rng.uniform(0, 0.5)
    low, high = rng.uniform(0, 0.25), rng.uniform(0.6, 1)
    return _noisy(rng, (_blurred(rng, image) - low) / (high - low), 0.06)


def head(rng: np.random.Generator, side: int) -> Values:
    """Return an axial section of a head: scalp, skull, matter in levels and ventricles, 0..1."""
    center, radii = rng.normal(0, 0.03, 2), _radii(rng, (1.0, 1.35))
    radius = _ellipse(side, center, radii, rng.normal(0, 0.1))
    texture = cloud(rng, side)
    levels = np.digitize(texture, np.quantile(texture, (0.35, 0.7)))
    matter = rng.uniform(0.2, 0.9, 3)[levels]
    scalp, skull = rng.uniform(0.6, 1), rng.uniform(0, 0.2)
    image = np.select(
        [radius < SKULL[1], radius < SKULL[0], radius < 1], [matter, skull, scalp], 0.0
    )
    fluid = float(rng.choice([0.02, 0.95]))
    for x, angle in ((-0.05, -0.3), (0.05, 0.3)):
        ventricle = _ellipse(side, center + np.array([x, -0.02]), np.array([0.03, 0.1]), angle)
        image[ventricle < 1] = fluid
    return _noisy(rng, _blurred(rng, image), 0.08)


def sector(rng: np.random.Generator, side: int) -> Values:
    """Return speckle within a sector, as of a curved ultrasound probe, 0..1."""
    y, x = _grid(side)
    distance_x, distance_y = x - rng.normal(0, 0.03), y + rng.uniform(0.42, 0.65)
    radius, angle = np.hypot(distance_x, distance_y), np.arctan2(distance_x, distance_y)
    inside = np.abs(angle) < rng.uniform(0.4, 0.95)
    inside &= (radius > rng.uniform(0.02, 0.2)) & (radius < rng.uniform(0.75, 1.05))
    speckle = cloud(rng, side) ** rng.uniform(0.7, 2) * rng.rayleigh(0.6, (side, side))
    return np.asarray(np.clip(inside * speckle * rng.uniform(0.6, 1.6), 0, 1))


def ultrasound(rng: np.random.Generator, side: int) -> Values:
    """Return a screen of an ultrasound machine, 0..1.

    A sector or a rectangle of speckle with fluid, bright layers and shadows; a gray scale, depth marks
    and text around it.
    """
    y, x = _grid(side)
    x, y = x - rng.normal(0, 0.04), y - rng.normal(0, 0.04)
    if rng.random() < 0.7:
        apex = rng.uniform(0.35, 0.75)
        depth, across = np.hypot(x, y + apex), np.arctan2(x, y + apex)
        near, far = apex - rng.uniform(0.25, 0.45), apex + rng.uniform(0.2, 0.45)
        half_width = rng.uniform(0.3, 0.8)
    else:
        depth, across = y + 0.5, x
        near, far, half_width = rng.uniform(0.02, 0.2), rng.uniform(0.6, 1), rng.uniform(0.2, 0.45)
    inside = (np.abs(across) < half_width) & (depth > near) & (depth < far)
    down = np.clip((depth - near) / (far - near), 0, 1)
    tissue = 0.25 + 0.75 * cloud(rng, side) ** rng.uniform(0.7, 2)
    for _ in range(int(rng.integers(0, 5))):
        at, radii = rng.uniform(-0.25, 0.25, 2), rng.uniform(0.03, 0.18, 2)
        cavity = _ellipse(side, at, radii, rng.uniform(0, math.pi))
        tissue *= np.where(cavity < 1, rng.uniform(0, 0.4), 1)
        tissue += (np.abs(cavity - 1) < 0.1) * rng.uniform(0, 0.5)
    for _ in range(int(rng.integers(0, 6))):
        wave = 0.04 * np.sin(across * rng.uniform(2, 12) + rng.uniform(0, 6))
        layer = np.abs(down + wave - rng.uniform(0, 1)) < rng.uniform(0.004, 0.03)
        tissue += layer * rng.uniform(0.2, 1.2)
    if rng.random() < 0.4:
        shadow = np.abs(across - half_width * rng.uniform(-0.8, 0.8)) < rng.uniform(0.02, 0.15)
        tissue *= np.where(shadow & (down > rng.uniform(0.1, 0.6)), rng.uniform(0, 0.4), 1)
    speckle = np.stack([_smooth(rng, side, rng.uniform(0.4, 1.6)) for _ in range(2)])
    envelope = tissue * np.hypot(*speckle) * np.exp(-rng.uniform(0, 1.5) * down)
    dynamic = rng.uniform(0.35, 1)
    image = inside * np.clip(envelope * rng.uniform(0.4, 1.2), 0, 1) ** dynamic
    return _screen(rng, image)


def _smooth(rng: np.random.Generator, side: int, radius: float) -> Values:
    """Return smoothed Gaussian noise of deviation 1."""
    noise = Image.fromarray(rng.normal(0, 1, (side, side)).astype(np.float32), "F")
    small = max(8, round(side / (1 + radius)))
    resized = noise.resize((small, small), Image.Resampling.BOX).resize((side, side))
    values = np.asarray(resized)
    return np.asarray(values / values.std())


def _screen(rng: np.random.Generator, image: Values) -> Values:
    """Return an image with text, a gray scale and depth marks."""
    side = len(image)
    screen = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    draw, font = ImageDraw.Draw(screen), ImageFont.load_default(int(rng.integers(6, 11)))
    letters = list("ABCDEFGHIKLMNOPRSTUVWZ0123456789:./ ")
    for _ in range(int(rng.integers(0, 12))):
        words = "".join(rng.choice(letters, int(rng.integers(3, 14))))
        left = rng.choice((rng.uniform(0, 0.15), rng.uniform(0.7, 0.9))) * side
        at = (left, rng.uniform(0, 0.95) * side)
        draw.text(at, words, fill=int(rng.integers(120, 256)), font=font)
    values = np.asarray(screen).copy()
    if rng.random() < 0.6:
        left, width = int(rng.integers(2, side // 8)), int(rng.integers(3, 8))
        top, bottom = sorted(rng.integers(0, side, 2).tolist())
        steps = np.linspace(255, 0, bottom - top)[:, None]
        if rng.random() < 0.5:
            left = side - left - width
        values[top:bottom, left : left + width] = steps
    if rng.random() < 0.5:
        column, step = int(rng.integers(side // 2, side - 4)), int(rng.integers(6, 30))
        values[::step, column : column + 3] = 220
    return np.asarray(values / 255.0)


def qa_phantom(rng: np.random.Generator, side: int) -> Values:
    """Return rings, a checkerboard, a star or rows of discs, possibly within a disc, 0..1."""
    y, x = _grid(side)
    radius = np.hypot(x, y)
    kind, number = int(rng.integers(4)), int(rng.integers(3, 20))
    if kind == 0:
        image = (np.sin(radius * rng.uniform(30, 200)) > 0) * 1.0
    elif kind == 1:
        squares = np.floor((x + 0.5) * number) + np.floor((y + 0.5) * number)
        image = (squares % 2) * rng.uniform(0.3, 1)
    elif kind == 2:
        image = (np.sin(np.arctan2(y, x) * 2 * number) > 0) * 1.0
    else:
        rows = 2 + number // 3
        column, row = ((np.floor((axis + 0.5) * rows) + 0.5) / rows - 0.5 for axis in (x, y))
        levels = rng.uniform(0, 1, (rows, rows))
        discs = np.hypot(x - column, y - row) < 0.35 / rows
        indices = tuple(((axis + 0.5) * rows).astype(int) for axis in (row, column))
        image = np.where(discs, levels[indices], rng.uniform(0, 1))
    if rng.random() < 0.5:
        image = np.where(radius < rng.uniform(0.3, 0.5), image, rng.uniform(0, 1))
    return _noisy(rng, image, 0.06)


def cloud(rng: np.random.Generator, side: int) -> Values:
    """Return noise whose spectrum falls with a random power of the frequency, 0..1."""
    y, x = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    amplitudes = np.maximum(np.hypot(x, y), 1 / side) ** -rng.uniform(0.5, 3)
    phases = np.exp(2j * math.pi * rng.random(amplitudes.shape))
    noise = np.fft.irfft2(amplitudes * phases, s=(side, side))
    return np.asarray((noise - noise.min()) / np.ptp(noise))


def _grid(side: int) -> tuple[Values, Values]:
    """Return row and column of each pixel, -0.5..0.5."""
    rows, columns = np.mgrid[0:side, 0:side] / side - 0.5
    return rows, columns


def _radii(rng: np.random.Generator, aspects: tuple[float, float]) -> Values:
    """Return the semi-axes of a body, x and y, as shares of the side."""
    width = rng.uniform(0.25, 0.47)
    return np.array([width, min(0.49, width * rng.uniform(*aspects))])


def _ellipse(side: int, center: Values, radii: Values, angle: float = 0.0) -> Values:
    """Return the distance of each pixel from the centre of an ellipse; 1 on it."""
    y, x = _grid(side)
    cos, sin = math.cos(angle), math.sin(angle)
    u = (x - center[0]) * cos + (y - center[1]) * sin
    v = (y - center[1]) * cos - (x - center[0]) * sin
    return np.asarray(np.hypot(u / radii[0], v / radii[1]))


def _ellipse_inside(
    rng: np.random.Generator,
    side: int,
    center: Values,
    radii: Values,
    sizes: tuple[float, float],
) -> Values:
    """Return a random ellipse whose centre is within another one."""
    angle, size = rng.uniform(0, 2 * math.pi), rng.uniform(*sizes)
    at = center + rng.uniform(0, 0.8) * radii * np.array([math.cos(angle), math.sin(angle)])
    own = size * np.array([1.0, rng.uniform(0.4, 1.4)])
    return _ellipse(side, at, own, rng.uniform(0, math.pi))


def _blurred(rng: np.random.Generator, image: Values) -> Values:
    gray = Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8))
    return np.asarray(gray.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2)))) / 255


def _noisy(rng: np.random.Generator, image: Values, deviation: float) -> Values:
    return np.clip(image + rng.normal(0, rng.uniform(0, deviation), image.shape), 0, 1)
