"""Decode one frame for a viewer: values before windowing, and the window to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.imaging.codecs.frame import (
    FrameRequest,
    StoredFrame,
    build_frame_request,
    wrap_decoder_errors,
)
from transforms.imaging.codecs.registry import decode_frame
from transforms.imaging.limits import Limits
from transforms.imaging.modality_voi_lut import apply_first_that_shows, voi_luts, windows
from transforms.imaging.monochrome import (
    LUMA,
    is_little_endian,
    to_modality_values,
    with_polarity,
)
from transforms.imaging.part10 import ParsedObject
from transforms.imaging.pixel_aspect import to_square_pixels
from transforms.imaging.preprocessing import HIGH_PERCENTILE, LOW_PERCENTILE

MAX_LEVEL: Final = 65_535
SAMPLED_PIXELS: Final = 1 << 18
"""Number of pixels, about, from which percentiles are estimated."""


@dataclass(frozen=True)
class DisplayImage:
    """A grayscale image with the polarity of MONOCHROME2, before windowing.

    Attributes:
        levels: uint16[h, w]; 0 is the lowest value, dense tissue bright, pixels square.
        slope: Difference of values, in units of the modality, between two levels; negative for
            MONOCHROME1.
        intercept: Value of level 0.
        low: Level at and below which the initial window is black; may be outside 0..65535.
        high: Level from which it is white; above `low`.
        full_long_side: Long side of the image without reduction, in pixels.
    """

    levels: npt.NDArray[np.uint16]
    slope: float
    intercept: float
    low: float
    high: float
    full_long_side: int


def decode_display_image(
    parsed: ParsedObject, long_side: int, *, frame_number: int = 1, limits: Limits
) -> DisplayImage:
    """Decode one frame for a viewer.

    The first VOI LUT that shows the image is applied. Otherwise the first window that does is the initial
    one, or else the window between two percentiles.

    Args:
        parsed: The object.
        long_side: Maximum long side of the image in pixels; a larger one is averaged.
        frame_number: Frame to decode, from 1; the last one if the object has fewer.
        limits: Limits of the frame.

    Raises:
        InvalidObject: As `transforms.imaging.read_image.decode_image`.
    """
    with wrap_decoder_errors():
        request = build_frame_request(parsed, frame_number, long_side, limits)
        stored, _ = decode_frame(request)
        values, window = _values_and_window(stored, request)
        values = to_square_pixels(values, request.pixel_aspect)
        full = round(max(request.rows, request.columns) * max(values.shape) / _longest(stored))
        values = _reduced(values, long_side)
        sign = -1.0 if request.photometric == "MONOCHROME1" and stored.values.ndim == 2 else 1.0
        lowest, highest = float(values.min()), float(values.max())
        step = _step(values, lowest, highest)
        levels = ((values - lowest) / step).round().clip(0, MAX_LEVEL).astype(np.uint16)
        low, high = (min(max((end - lowest) / step, -1e6), 1e6) for end in window)
        return DisplayImage(levels, sign * step, sign * lowest, low, max(high, low + 1), full)


def _values_and_window(
    stored: StoredFrame, request: FrameRequest
) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """Return values with the polarity of MONOCHROME2, and the lowest and highest value to show."""
    if stored.values.ndim == 3:
        return stored.values @ LUMA, (0.0, 255.0)
    gray = to_modality_values(stored, request)
    luts = voi_luts(request.dataset, is_little_endian(request))
    by_lut = apply_first_that_shows(luts, gray, stored.padding)
    if by_lut is not gray:
        values = with_polarity(by_lut, stored, request)
        return values, (float(values.min()), float(values.max()))
    values = with_polarity(gray, stored, request)
    for window in windows(request.dataset):
        if apply_first_that_shows([window.apply], gray, stored.padding) is not gray:
            ends = window.center - window.width / 2, window.center + window.width / 2
            low, high = sorted(
                -end if request.photometric == "MONOCHROME1" else end for end in ends
            )
            return values, (low, high)
    shown = values if stored.padding is None or stored.padding.all() else values[~stored.padding]
    sample = shown.ravel()[:: max(1, shown.size // SAMPLED_PIXELS)]
    low, high = (float(v) for v in np.percentile(sample, (LOW_PERCENTILE, HIGH_PERCENTILE)))
    return values, (low, high) if low < high else (float(values.min()), float(values.max()))


def _step(values: npt.NDArray[np.float32], lowest: float, highest: float) -> float:
    """Return the difference of values between two levels: 1 for integers that fit."""
    span = highest - lowest
    if span <= MAX_LEVEL and span >= 256 and bool((values == np.floor(values)).all()):
        return 1.0
    return max(span / MAX_LEVEL, 1e-6)


def _reduced(values: npt.NDArray[np.float32], long_side: int) -> npt.NDArray[np.float32]:
    height, width = values.shape
    scale = long_side / max(height, width)
    if scale >= 1:
        return values
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BOX))


def _longest(stored: StoredFrame) -> int:
    return max(map(int, stored.values.shape[:2]))
