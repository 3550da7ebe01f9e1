"""Area averaging of stored values by an integer factor, pixel padding left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from transforms.imaging.codecs.frame import StoredFrame


def average(
    stored: npt.NDArray[np.integer], factor: int, padding: tuple[int, int] | None
) -> StoredFrame:
    """Average blocks of `factor` x `factor` pixels; the rows and columns that fill no block are cut.

    Args:
        stored: integer[H, W], which may be a view of the object's bytes in any byte order.
        factor: at least 1.
        padding: lowest and highest value that mean padding, or None.

    Returns:
        float32[H // factor, W // factor]; blocks of padding alone are marked.
    """
    if padding is None:
        sums = _block_sums(stored, factor)
        return StoredFrame(np.divide(sums, factor * factor, dtype=np.float32))
    low, high = padding
    is_padding = (stored >= low) & (stored <= high)
    if not is_padding.any():
        return average(stored, factor, None)
    sums = _block_sums(np.where(is_padding, 0, stored), factor)
    counts = _block_sums((~is_padding).astype(np.uint8), factor)
    return StoredFrame(
        np.divide(sums, np.maximum(counts, 1), dtype=np.float32), padding=counts == 0
    )


def padding_range(ds: Dataset) -> tuple[int, int] | None:
    """Return the closed range of padding values, or None.

    Standard: PS3.3 C.7.5.1.1.2, Pixel Padding Value and Pixel Padding Range Limit.
    """
    try:
        value, limit = ds.get("PixelPaddingValue"), ds.get("PixelPaddingRangeLimit")
    except Exception:  # a malformed element raises many types; without it the film is still seen
        return None
    if not isinstance(value, int):
        return None
    if not isinstance(limit, int):
        limit = value
    return min(value, limit), max(value, limit)


def _block_sums(stored: npt.NDArray[np.integer], factor: int) -> npt.NDArray[np.float32]:
    height, width = stored.shape[0] // factor, stored.shape[1] // factor
    trimmed = stored[: height * factor, : width * factor]
    if factor == 1:
        return trimmed.astype(np.float32)
    total = np.int64 if stored.dtype.itemsize > 2 else np.int32
    by_rows = trimmed.reshape(height, factor, -1).sum(axis=1, dtype=total)
    sums: npt.NDArray[np.integer] = by_rows.reshape(height, width, factor).sum(axis=2, dtype=total)
    return sums.astype(np.float32)
