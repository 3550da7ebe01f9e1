"""Area averaging of stored values by an integer factor, pixel padding left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from transforms.imaging.codecs.frame import FrameRequest, StoredFrame

Integers = npt.NDArray[np.integer]


def average(
    stored: Integers, factor: int, is_padding: npt.NDArray[np.bool_] | None = None
) -> StoredFrame:
    """Average blocks of `factor` x `factor` pixels; rows and columns that fill no block are cut.

    Args:
        stored: integer[H, W], which may be a view of the object's bytes in any byte order.
        factor: at least 1.
        is_padding: bool[H, W], True where a pixel is padding, or None.

    Returns:
        float32[H // factor, W // factor]; blocks of padding alone are marked.
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


def padding_of(stored: Integers, request: FrameRequest) -> npt.NDArray[np.bool_] | None:
    """Return where pixels are padding, or None where the header names no padding.

    Args:
        stored: integer[H, W], before bits outside Bits Stored are dropped: padding values may use
            them.
        request: names the padding and the pixels' type.

    Standard: PS3.3 C.7.5.1.1.2, Pixel Padding Value and Pixel Padding Range Limit.
    """
    try:
        value = request.dataset.get("PixelPaddingValue")
        limit = request.dataset.get("PixelPaddingRangeLimit")
    except Exception:  # a malformed element raises many types; without it the film is still seen
        return None
    if not isinstance(value, int):
        return None
    ends = [_in_pixel_type(v, request) for v in (value, limit) if isinstance(v, int)]
    return (stored >= min(ends)) & (stored <= max(ends))


def _in_pixel_type(value: int, request: FrameRequest) -> int:
    """Read a value that was written with the other signedness."""
    span = 1 << request.bits_allocated
    value %= span
    return value - span if request.signed and value >= span // 2 else value


def _block_sums(stored: Integers, factor: int) -> npt.NDArray[np.float32]:
    height, width = stored.shape[0] // factor, stored.shape[1] // factor
    trimmed = stored[: height * factor, : width * factor]
    if factor == 1:
        return trimmed.astype(np.float32)
    largest = factor**2 << 8 * stored.dtype.itemsize
    total = np.int64 if largest > np.iinfo(np.int32).max else np.int32
    by_rows = trimmed.reshape(height, factor, -1).sum(axis=1, dtype=total)
    sums: Integers = by_rows.reshape(height, width, factor).sum(axis=2, dtype=total)
    return sums.astype(np.float32)
