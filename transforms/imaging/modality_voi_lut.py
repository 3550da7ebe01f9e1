"""Modality LUT, VOI LUT and windowing of stored values.

pydicom's functions index LUTs with the stored integer type and ignore windows if Bits Stored or
Photometric Interpretation is missing. These accept float values, such as averaged pixels.
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

    def __call__(self, values: Values) -> Values:
        indices = np.clip(values.round() - self.first, 0, len(self.entries) - 1)
        return self.entries[indices.astype(np.int64)]


def apply_modality_lut(values: Values, ds: Dataset, little_endian: bool) -> Values:
    """Apply the Modality LUT, or Rescale Slope and Intercept. Standard: PS3.3 C.11.1.

    Raises:
        Exception: Of many types, if the elements are malformed.
    """
    if sequence := ds.get("ModalityLUTSequence"):
        return LookupTable.from_item(sequence[0], float(values.min()), little_endian)(values)
    slope, intercept = ds.get("RescaleSlope"), ds.get("RescaleIntercept")
    if slope is None and intercept is None:
        return values
    rescaled = values * float(1 if slope is None else slope) + float(intercept or 0)
    return np.asarray(rescaled, dtype=np.float32)


def apply_voi_lut(values: Values, ds: Dataset, little_endian: bool) -> Values | None:
    """Apply the first VOI LUT; return None if there is none. Standard: PS3.3 C.11.2.1.1.

    Raises:
        Exception: Of many types, if the elements are malformed.
    """
    if sequence := ds.get("VOILUTSequence"):
        return LookupTable.from_item(sequence[0], float(values.min()), little_endian)(values)
    return None


def apply_windowing(values: Values, ds: Dataset) -> Values | None:
    """Apply the first window; return None if there is none. Standard: PS3.3 C.11.2.1.2.

    Returns:
        float32 in 0..1.

    Raises:
        Exception: Of many types, if the elements are malformed.
    """
    center, width = _first(ds.get("WindowCenter")), _first(ds.get("WindowWidth"))
    if center is None or width is None:
        return None
    function = str(ds.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function == "SIGMOID":
        _require_valid_width(width > 0)
        windowed = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -80, 80)))
    elif function == "LINEAR_EXACT":
        _require_valid_width(width > 0)
        windowed = np.clip((values - center) / width + 0.5, 0, 1)
    else:
        _require_valid_width(width >= 1)
        windowed = np.clip((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)
    return np.asarray(windowed, dtype=np.float32)


def is_usable(values: Values) -> bool:
    """Return whether transformed values are finite and not constant."""
    low, high = float(values.min()), float(values.max())
    return math.isfinite(low) and math.isfinite(high) and low < high


def _first(value: object) -> float | None:
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)  # type: ignore[arg-type]


def _require_valid_width(is_valid: bool) -> None:
    if not is_valid:
        raise ValueError("invalid Window Width")
