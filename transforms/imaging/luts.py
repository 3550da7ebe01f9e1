"""Modality and VOI transformations of stored values, as the standard words them.

pydicom's own index with the pixels' type and drop windows where Bits Stored or the photometric
interpretation is missing; these work on float values of any scale, as averaged pixels are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LookupTable:
    """A LUT. Standard: PS3.3 C.11.1.1.1 and C.11.2.1.1.

    Attributes:
        first: the value that maps to the first entry; what lies outside maps to the nearest entry.
        entries: float32[n].
    """

    first: int
    entries: Values

    @classmethod
    def of(cls, item: Dataset, lowest: float, little_endian: bool) -> LookupTable:
        """Read a LUT from an item.

        Args:
            item: with LUT Descriptor and LUT Data.
            lowest: lowest value that will be looked up: a descriptor of VR US can mean a negative
                first value.
            little_endian: byte order of LUT Data where it is of VR OW.

        Raises:
            ValueError: the item is malformed.
        """
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count or 1 << 16
        if first >= 1 << 15 and lowest < 0:
            first -= 1 << 16
        data = item.LUTData
        if isinstance(data, bytes):
            packed = bits <= 8 and len(data) in (count, count + 1)
            dtype = "u1" if packed else "<u2" if little_endian else ">u2"
            entries = np.frombuffer(data, dtype, count)
        else:
            entries = np.array(list(data), dtype=np.float32)
        if len(entries) != count:
            raise ValueError("LUT Data is not as long as its descriptor says")
        return cls(first, entries.astype(np.float32))

    def __call__(self, values: Values) -> Values:
        at = np.clip(values.round() - self.first, 0, len(self.entries) - 1)
        return self.entries[at.astype(np.int64)]


def modality(values: Values, ds: Dataset, little_endian: bool) -> Values:
    """Apply the Modality LUT, or slope and intercept. Standard: PS3.3 C.11.1.

    Raises:
        Exception: of many types, where they are malformed.
    """
    if sequence := ds.get("ModalityLUTSequence"):
        return LookupTable.of(sequence[0], float(values.min()), little_endian)(values)
    slope, intercept = ds.get("RescaleSlope"), ds.get("RescaleIntercept")
    if slope is None and intercept is None:
        return values
    scaled = values * float(1 if slope is None else slope) + float(intercept or 0)
    return np.asarray(scaled, dtype=np.float32)


def voi_lut(values: Values, ds: Dataset, little_endian: bool) -> Values | None:
    """Apply the first VOI LUT, or return None where there is none. Standard: PS3.3 C.11.2.1.1.

    Raises:
        Exception: of many types, where it is malformed.
    """
    if sequence := ds.get("VOILUTSequence"):
        return LookupTable.of(sequence[0], float(values.min()), little_endian)(values)
    return None


def window(values: Values, ds: Dataset) -> Values | None:
    """Apply the first window, or return None where there is none. Standard: PS3.3 C.11.2.1.2.

    Returns:
        float32 in 0..1.

    Raises:
        Exception: of many types, where it is malformed.
    """
    center, width = _first(ds.get("WindowCenter")), _first(ds.get("WindowWidth"))
    if center is None or width is None:
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID":
        _require(width > 0)
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80)))
    elif function == "LINEAR_EXACT":
        _require(width > 0)
        shown = np.clip((values - center) / width + 0.5, 0, 1)
    else:
        _require(width >= 1)
        shown = np.clip((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)
    return np.asarray(shown, dtype=np.float32)


def _first(value: object) -> float | None:
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)  # type: ignore[arg-type]


def _require(sensible: bool) -> None:
    if not sensible:
        raise ValueError("a window of senseless width")


def is_usable(shown: Values) -> bool:
    """Whether a transformation left finite values of more than one level."""
    low, high = float(shown.min()), float(shown.max())
    return math.isfinite(low) and math.isfinite(high) and low < high
