"""Modality LUT, VOI LUT and windowing of stored values.

pydicom's functions index LUTs with the stored integer type and ignore windows if Bits Stored or
Photometric Interpretation is missing. These accept float values, such as averaged pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

MIN_SHOWN: Final = 0.1
"""Share of the pixels that a LUT or window must leave between the ends of its output."""
DISPLAY_LEVELS: Final = 256
Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LookupTable:
    """A lookup table. Standard: PS3.3 C.11.1.1.1 and C.11.2.1.1.

    Attributes:
        first: Input value of the first entry; inputs outside the table map to the nearest entry.
        entries: float32[n].
    """

    first: int
    entries: Values

    @classmethod
    def from_item(cls, item: Dataset, lowest: float, little_endian: bool) -> LookupTable:
        """Read a LUT from a sequence item.

        Args:
            item: Item with LUT Descriptor and LUT Data.
            lowest: Lowest input value. If it is negative, a descriptor of VR US is read as signed.
            little_endian: Byte order of LUT Data of VR OW.

        Raises:
            ValueError: LUT Data is not as long as LUT Descriptor states.
        """
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count or 1 << 16
        if first >= 1 << 15 and lowest < 0:
            first -= 1 << 16
        data = item.LUTData
        if isinstance(data, bytes):
            is_8_bit = bits <= 8 and len(data) in (count, count + 1)
            dtype = "u1" if is_8_bit else "<u2" if little_endian else ">u2"
            entries = np.frombuffer(data, dtype, count)
        else:
            entries = np.array(list(data), dtype=np.float32)
        if len(entries) != count:
            raise ValueError("LUT Data and LUT Descriptor disagree on the number of entries")
        return cls(first, entries.astype(np.float32))

    def __call__(self, values: Values) -> Presented:
        last = len(self.entries) - 1
        indices = np.clip(values.round() - self.first, 0, last)
        output = self.entries[indices.astype(np.int64)]
        ends = float(self.entries.min()), float(self.entries.max())
        return Presented(output, (indices > 0) & (indices < last) & _is_between(output, *ends))


@dataclass(frozen=True)
class Presented:
    """The output of a LUT or window.

    Attributes:
        values: float32[h, w].
        is_between: bool[h, w], whether a pixel is at neither end of the output, to the precision of an
            8-bit display.
    """

    values: Values
    is_between: npt.NDArray[np.bool_]


Transformation = Callable[[Values], Presented | None]


def apply_first_that_shows(
    transformations: Iterable[Transformation],
    values: Values,
    padding: npt.NDArray[np.bool_] | None = None,
) -> Values:
    """Apply the first transformation that is well-formed and shows the image.

    It shows the image if at least `MIN_SHOWN` of the pixels are between the ends of its output. Devices
    write windows and LUTs in other units or for other bit depths, which make all pixels black or white.

    Args:
        transformations: In order of preference.
        values: float32[h, w].
        padding: bool[h, w], True for pixels that do not count, or None.

    Returns:
        float32[h, w]; `values` itself if no transformation shows the image.
    """
    counts = slice(None) if padding is None or padding.all() else ~padding
    for transform in transformations:
        try:
            presented = transform(values)
        except MemoryError:
            raise
        except Exception:  # pydicom and numpy raise many types for malformed elements
            continue
        if presented is None or not is_usable(presented.values):
            continue
        if presented.is_between[counts].mean() >= MIN_SHOWN:
            return presented.values
    return values


def rescale(values: Values, ds: Dataset) -> Values:
    """Apply Rescale Slope and Intercept. Standard: PS3.3 C.11.1.1.2.

    Returns:
        float32[h, w]; `values` itself if the elements are missing, malformed or give a constant.
    """
    try:
        slope, intercept = ds.get("RescaleSlope"), ds.get("RescaleIntercept")
        if slope is None and intercept is None:
            return values
        rescaled = values * float(1 if slope is None else slope) + float(intercept or 0)
    except MemoryError:
        raise
    except Exception:  # pydicom raises many types for malformed elements
        return values
    rescaled = np.asarray(rescaled, dtype=np.float32)
    return rescaled if is_usable(rescaled) else values


def modality_luts(ds: Dataset, little_endian: bool) -> Iterator[Transformation]:
    """Yield the Modality LUT, if any. Standard: PS3.3 C.11.1."""
    yield from _luts(ds, "ModalityLUTSequence", little_endian)


def voi_transformations(ds: Dataset, little_endian: bool) -> Iterator[Transformation]:
    """Yield the VOI LUTs, then the windows, in the order of the header. Standard: PS3.3 C.11.2."""
    yield from voi_luts(ds, little_endian)
    for window in windows(ds):
        yield window.apply


def voi_luts(ds: Dataset, little_endian: bool) -> Iterator[Transformation]:
    """Yield the VOI LUTs. Standard: PS3.3 C.11.2.1.1."""
    yield from _luts(ds, "VOILUTSequence", little_endian)


@dataclass(frozen=True)
class Window:
    """A window of the header. Standard: PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Attributes:
        center: Window Center.
        width: Window Width.
        function: VOI LUT Function in upper case.
    """

    center: float
    width: float
    function: str

    def apply(self, values: Values) -> Presented:
        """Apply the window; the output is 0..1.

        Raises:
            ValueError: The width is invalid for the function.
        """
        return _apply_window(values, self.center, self.width, self.function)


def windows(ds: Dataset) -> Iterator[Window]:
    """Yield the windows of a header, in its order; none if they are malformed."""
    try:
        centers, widths = _numbers(ds.get("WindowCenter")), _numbers(ds.get("WindowWidth"))
        function = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
    except MemoryError:
        raise
    except Exception:  # pydicom raises many types for malformed elements
        return
    for center, width in zip(centers, widths, strict=False):
        if center is not None and width is not None:
            yield Window(center, width, function)


def _luts(ds: Dataset, keyword: str, little_endian: bool) -> Iterator[Transformation]:
    def apply(item: Dataset, values: Values) -> Presented:
        return LookupTable.from_item(item, float(values.min()), little_endian)(values)

    try:
        items = list(ds.get(keyword) or ())
    except MemoryError:
        raise
    except Exception:  # pydicom raises many types for malformed elements
        return
    for item in items:
        yield functools.partial(apply, item)


def _apply_window(values: Values, center: float, width: float, function: str) -> Presented:
    """Apply a window; the output is 0..1. Standard: PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Raises:
        ValueError: The width is invalid for the function.
    """
    if function == "SIGMOID":
        _require_valid_width(width > 0)
        windowed = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80)))
    elif function == "LINEAR_EXACT":
        _require_valid_width(width > 0)
        windowed = np.clip((values - center) / width + 0.5, 0, 1)
    else:
        _require_valid_width(width >= 1)
        windowed = np.clip((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)
    output = np.asarray(windowed, dtype=np.float32)
    return Presented(output, _is_between(output, 0, 1))


def is_usable(values: Values) -> bool:
    """Return whether transformed values are finite and not constant."""
    low, high = float(values.min()), float(values.max())
    return math.isfinite(low) and math.isfinite(high) and low < high


def _is_between(output: Values, low: float, high: float) -> npt.NDArray[np.bool_]:
    margin = (high - low) / (2 * DISPLAY_LEVELS)
    return (output > low + margin) & (output < high - margin)


def _numbers(value: object) -> list[float | None]:
    values: Iterable[Any] = value if isinstance(value, MultiValue) else [value]
    return [None if v is None or v == "" else float(v) for v in values]


def _require_valid_width(is_valid: bool) -> None:
    if not is_valid:
        raise ValueError("invalid Window Width")
