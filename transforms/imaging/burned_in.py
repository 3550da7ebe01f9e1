"""Whether the pixels of an image may contain text, by its header: no pixel is examined.

Standard: PS3.3 C.7.6.1.1.1 (Image Type), C.8.6.1 (Conversion Type), C.9.2 (Overlay Plane), and
C.7.6.1 (Burned In Annotation).
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset

from transforms.imaging.object_transforms import BurnedIn

SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
"""SOP Class UID, and prefix of those of multi-frame secondary captures."""
CAPTURED: Final = frozenset({"SECONDARY", "SCREEN SAVE", "SCREENSHOT", "SCANNED"})
"""Values of Image Type."""
SCANNED: Final = frozenset({"DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"})
"""Values of Conversion Type."""
NO_DEVICE: Final = frozenset({"OT", "DOC", "SC"})
"""Modalities of images that no radiographic device has written."""
COLOR: Final = ("RGB", "PALETTE", "YBR")
"""Beginnings of Photometric Interpretations of colored images."""
FIRST_OVERLAY, LAST_OVERLAY = 0x6000, 0x60FE
OVERLAY_DATA: Final = 0x3000


def burned_in(header: Dataset) -> BurnedIn:
    """Return whether the pixels of an image may contain text.

    Burned In Annotation (0028,0301) counts if it is YES or NO. Otherwise text is suspected in secondary
    captures, scanned and colored images, and where overlays are in unused bits of the pixels.

    Args:
        header: its data set.
    """
    stated = _values(header, "BurnedInAnnotation")
    if "YES" in stated or _has_embedded_overlay(header):
        return BurnedIn.YES if "YES" in stated else BurnedIn.SUSPECTED
    if "NO" in stated:
        return BurnedIn.NO
    is_suspected = (
        any(uid.startswith(SECONDARY_CAPTURE) for uid in _values(header, "SOPClassUID"))
        or CAPTURED & _values(header, "ImageType")
        or SCANNED & _values(header, "ConversionType")
        or NO_DEVICE & _values(header, "Modality")
        or any(one.startswith(COLOR) for one in _values(header, "PhotometricInterpretation"))
    )
    return BurnedIn.SUSPECTED if is_suspected else BurnedIn.UNKNOWN


def _has_embedded_overlay(header: Dataset) -> bool:
    """Return whether a group of an overlay has no Overlay Data, which is then in the pixels."""
    groups = {tag >> 16 for tag in header.keys() if FIRST_OVERLAY <= tag >> 16 <= LAST_OVERLAY}  # noqa: SIM118
    return any(group << 16 | OVERLAY_DATA not in header for group in groups if group % 2 == 0)


def _values(header: Dataset, keyword: str) -> set[str]:
    """Return the values of an element as upper-case text; none if it cannot be read."""
    try:
        value = header.get(keyword)
    except Exception:  # pydicom raises many types for malformed elements
        return set()
    values = [value] if value is None or isinstance(value, str) else value
    try:
        return {str(one).strip(" \0").upper() for one in values if one is not None}
    except TypeError:
        return {str(value).upper()}
