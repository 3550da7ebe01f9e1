"""Reduce stored values by area averaging, without bits outside Bits Stored and pixel padding."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.imaging.codecs.frame import FrameRequest, StoredFrame

Integers = npt.NDArray[np.integer]


def reduce_gray(raw: Integers, request: FrameRequest) -> StoredFrame:
    """Average a grayscale frame of full resolution, integer[H, W], by `request.reduction`."""
    is_padding = padding_mask(raw, request)
    return average(clear_unused_bits(raw, request), request.reduction, is_padding)


def average(
    stored: Integers, factor: int, is_padding: npt.NDArray[np.bool_] | None = None
) -> StoredFrame:
    """Average blocks of `factor` x `factor` pixels; incomplete blocks at the edges are dropped.

    Args:
        stored: integer[H, W]; may be a view of the object's bytes in any byte order.
        factor: At least 1.
        is_padding: bool[H, W], True for pixel padding, or None.

    Returns:
        float32[H // factor, W // factor]; blocks that consist of padding are marked.
    """
    if is_padding is None or not is_padding.any():
        return StoredFrame(np.divide(_block_sums(stored, factor), factor**2, dtype=np.float32))
    sums = _block_sums(np.where(is_padding, 0, stored), factor)
    counts = _block_sums((~is_padding).astype(np.uint8), factor)
    return StoredFrame(
        np.divide(sums, np.maximum(counts, 1), dtype=np.float32), padding=counts == 0
    )


def average_channels(stored: Integers, factor: int) -> StoredFrame:
    """Average RGB, integer[H, W, 3], to float32[H // factor, W // factor, 3]."""
    channels = [average(stored[..., channel], factor).values for channel in range(3)]
    return StoredFrame(np.stack(channels, axis=-1))


def padding_mask(stored: Integers, request: FrameRequest) -> npt.NDArray[np.bool_] | None:
    """Return which pixels are padding, or None if the header defines no padding.

    Args:
        stored: integer[H, W], including bits outside Bits Stored, which padding values may use.
        request: Provides the padding elements and the pixel type.

    Standard: PS3.3 C.7.5.1.1.2 (Pixel Padding Value, Pixel Padding Range Limit).
    """
    try:
        value = request.dataset.get("PixelPaddingValue")
        limit = request.dataset.get("PixelPaddingRangeLimit")
    except Exception:  # pydicom raises many types; the image is usable without padding
        return None
    if not isinstance(value, int):
        return None
    ends = [_to_pixel_type(v, request) for v in (value, limit) if isinstance(v, int)]
    return (stored >= min(ends)) & (stored <= max(ends))


def clear_unused_bits(raw: Integers, request: FrameRequest) -> Integers:
    """Clear bits outside Bits Stored, which hold overlays in old objects (PS3.5 section 8.1.2)."""
    bits, shift = request.bits_stored, request.high_bit + 1 - request.bits_stored
    if bits == request.bits_allocated:
        return raw
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if request.signed else (0, (1 << bits) - 1)
    if shift == 0 and low <= raw.min() and raw.max() <= high:
        return raw
    native = raw.astype(raw.dtype.newbyteorder("="))
    cleared: Integers = (native << request.bits_allocated - bits - shift) >> (
        request.bits_allocated - bits
    )
    return cleared


def _to_pixel_type(value: int, request: FrameRequest) -> int:
    """Reinterpret a padding value that was encoded with the other signedness."""
    span = 1 << request.bits_allocated
    value %= span
    return value - span if request.signed and value >= span // 2 else value


def _block_sums(stored: Integers, factor: int) -> npt.NDArray[np.float32]:
    height, width = stored.shape[0] // factor, stored.shape[1] // factor
    trimmed = stored[: height * factor, : width * factor]
    if factor == 1:
        return trimmed.astype(np.float32)
    max_sum = factor**2 << 8 * stored.dtype.itemsize
    dtype = np.int64 if max_sum > np.iinfo(np.int32).max else np.int32
    row_sums = trimmed.reshape(height, factor, -1).sum(axis=1, dtype=dtype)
    sums: Integers = row_sums.reshape(height, width, factor).sum(axis=2, dtype=dtype)
    return sums.astype(np.float32)
