"""Reduce stored values by area averaging, without bits outside Bits Stored and pixel padding."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from transforms.imaging.codecs.frame import FrameRequest, StoredFrame

Integers = npt.NDArray[np.integer]
MAX_OVERFLOW: Final = 1 / 8
"""Share of the range of Bits Stored by which noise may exceed it."""


def reduce_gray(raw: Integers, request: FrameRequest) -> StoredFrame:
    """Average a grayscale frame of full resolution, integer[H, W], by `request.reduction`."""
    stored = clear_unused_bits(raw, request)
    return average(stored, request.reduction, padding_mask(raw, stored, request))


def average(
    stored: Integers, factor: int, is_padding: npt.NDArray[np.bool_] | None = None
) -> StoredFrame:
    """Average blocks of `factor` x `factor` pixels; incomplete blocks at the edges are dropped.

    Args:
        stored: integer[H, W], or integer[H, W, 3] for RGB; may be a view of the object's bytes in any
            byte order.
        factor: At least 1.
        is_padding: bool[H, W], True for pixel padding, or None.

    Returns:
        float32[H // factor, W // factor] or float32[H // factor, W // factor, 3]; blocks that consist of
        padding are marked.
    """
    if is_padding is None or not is_padding.any():
        return StoredFrame(np.divide(_block_sums(stored, factor), factor**2, dtype=np.float32))
    sums = _block_sums(np.where(is_padding, 0, stored), factor)
    counts = _block_sums((~is_padding).astype(np.uint8), factor)
    return StoredFrame(
        np.divide(sums, np.maximum(counts, 1), dtype=np.float32), padding=counts == 0
    )


def average_blocks(
    reduced: npt.NDArray[np.integer], cell: int, request: FrameRequest, phase: float = 0.0
) -> StoredFrame:
    """Average a frame that its decoder has reduced, over nearly the same blocks as `average`.

    Args:
        reduced: integer[h, w], the frame reduced by `cell`.
        cell: At most `request.reduction`; need not divide it.
        request: Provides the size of the frame and the blocks.
        phase: Position of the first cell's center in the frame, minus cell / 2, in pixels.
    """
    factor = request.reduction
    rows, columns = request.rows // factor, request.columns // factor
    if phase == 0 and factor % cell == 0:
        scale = factor // cell
        return average(reduced[: rows * scale, : columns * scale], scale)
    left = top = -phase / cell
    right = min(left + columns * factor / cell, reduced.shape[1])
    bottom = min(top + rows * factor / cell, reduced.shape[0])
    image = Image.fromarray(reduced.astype(np.float32))
    filter = Image.Resampling.BICUBIC  # nearer to area averages than the other filters
    resized = image.resize((columns, rows), filter, box=(left, top, right, bottom))
    return StoredFrame(np.asarray(resized))


def padding_mask(
    raw: Integers, stored: Integers, request: FrameRequest
) -> npt.NDArray[np.bool_] | None:
    """Return which pixels are padding, or None if the header defines no padding.

    Args:
        raw: integer[H, W], including bits outside Bits Stored. They count if the padding value has such
            bits.
        stored: integer[H, W], without bits outside Bits Stored.
        request: Provides the padding value and the pixel type.

    Standard: PS3.3 C.7.5.1.1.2 (Pixel Padding Value, Pixel Padding Range Limit).
    """
    if not request.padding:
        return None
    low, high = padding_range(request)
    lowest, highest = stored_range(request)
    values = stored if lowest <= low and high <= highest else raw
    return (values >= low) & (values <= high)


def padding_range(request: FrameRequest) -> tuple[int, int]:
    """Return the lowest and highest padding value, also if encoded with the other signedness."""
    span = 1 << request.padding_bits
    ends = [v - span if request.signed and v >= span // 2 else v for v in request.padding]
    return min(ends), max(ends)


def stored_range(request: FrameRequest) -> tuple[int, int]:
    """Return the lowest and highest value of Bits Stored."""
    bits = request.bits_stored
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if request.signed else (0, (1 << bits) - 1)


def clear_unused_bits(raw: Integers, request: FrameRequest) -> Integers:
    """Clear bits outside Bits Stored, which hold overlays in old objects (PS3.5 section 8.1.2).

    The noise of an irreversible compression can exceed the highest value; that is clipped.
    """
    bits, shift = request.bits_stored, request.high_bit + 1 - request.bits_stored
    width = 8 * raw.dtype.itemsize
    if bits >= width:
        return raw
    low, high = stored_range(request)
    highest_noise = high + (1 << bits) * MAX_OVERFLOW
    if shift == 0 and low <= raw.min():
        highest = raw.max()
        if highest <= high:
            return raw
        if request.is_irreversible and highest <= highest_noise:
            return np.minimum(raw, high)
    native = raw.astype(raw.dtype.newbyteorder("="))
    cleared: Integers = (native << width - bits - shift) >> width - bits
    if not request.is_irreversible or shift:
        return cleared
    is_overflow = (native > high) & (native <= highest_noise)
    return np.where(is_overflow, high, cleared)


def _block_sums(stored: Integers, factor: int) -> npt.NDArray[np.float32]:
    height, width = stored.shape[0] // factor, stored.shape[1] // factor
    trimmed = stored[: height * factor, : width * factor]
    if factor == 1:
        return trimmed.astype(np.float32)
    max_sum = factor**2 << 8 * stored.dtype.itemsize
    dtype = np.int64 if max_sum > np.iinfo(np.int32).max else np.int32
    blocks = trimmed.reshape(height, factor, *trimmed.shape[1:])
    row_sums = np.zeros((height, *trimmed.shape[1:]), dtype)
    rows, partial = _rows_at_a_time(stored, factor, dtype)
    for first in range(0, factor, rows):
        row_sums += blocks[:, first : first + rows].sum(axis=1, dtype=partial)
    sums: Integers = np.add.reduceat(row_sums, np.arange(0, width * factor, factor), axis=1)
    return sums.astype(np.float32)


def _rows_at_a_time(
    stored: Integers, factor: int, dtype: type[np.integer]
) -> tuple[int, type[np.integer]]:
    """Return how many rows to add in which type: 16 bits, the fastest, where that suffices."""
    if stored.dtype.kind != "u" or stored.dtype.itemsize > 2:
        return factor, dtype
    rows = np.iinfo(np.uint16).max // max(1, int(stored.max()))
    return (min(factor, rows), np.uint16) if rows > 1 else (factor, dtype)
