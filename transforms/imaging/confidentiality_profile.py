"""The Basic Application Level Confidentiality Profile, PS3.15 Annex E, for radiographs.

The actions of table E.1-1 are those of the database `dicomfields_2026c` of dicom-anonymizer, of edition
2026c of the standard. Only its tables are used: its functions treat the outermost data set alone, give
random UIDs, and write 00010101 where a date is to be removed.

The table lists attributes that are known to identify; others may contain anything. So this profile keeps
of all other attributes only those whose values cannot be text: numbers, codes of the standard and
registered UIDs. It is stricter than the Basic Profile.
"""

from __future__ import annotations

import functools
import re
from enum import StrEnum
from typing import Final

from pydicom.datadict import get_entry, tag_for_keyword

EDITION: Final = "2026c"
DATABASE: Final = "dicomfields_2026c"
MODULE: Final = "dicomanonymizer"


class Action(StrEnum):
    """What becomes of an attribute of table E.1-1; `X/Z`, `X/D` and `X/Z/D` are `REMOVE`."""

    REMOVE = "X"
    EMPTY = "Z"
    DUMMY = "D"
    REPLACE_UID = "U"
    RECURSE = "X/Z/U*"


_ACTION_BY_LIST: Final = {
    "D_TAGS": Action.DUMMY,
    "Z_TAGS": Action.EMPTY,
    "X_TAGS": Action.REMOVE,
    "U_TAGS": Action.REPLACE_UID,
    "Z_D_TAGS": Action.EMPTY,
    "X_Z_TAGS": Action.REMOVE,
    "X_D_TAGS": Action.REMOVE,
    "X_Z_D_TAGS": Action.REMOVE,
    "X_Z_U_STAR_TAGS": Action.RECURSE,
}
"""A list of the database by what it means for images, in which the attributes of `X/Z`, `X/D` and `X/Z/D`
are of type 3."""

PATIENT_CHARACTERISTICS: Final = (
    *("PatientSex", "PatientSexNeutered", "PatientAge", "PatientSize", "PatientWeight"),
    *("PregnancyStatus", "SmokingStatus"),
)
"""Kept by the Retain Patient Characteristics Option: those that are numbers or codes."""
DEVICE_IDENTITY: Final = (
    *("DeviceSerialNumber", "DeviceUID", "StationName", "DetectorID", "PlateID", "GeneratorID"),
    *("CassetteID", "GantryID"),
)
"""Kept by the Retain Device Identity Option."""
NEVER_DATES: Final = (
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar",
)
"""Dates that no option about longitudinal information keeps."""
ALWAYS_PRESENT: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
"""Attributes of type 2 in every image, PS3.3 C.7.1.1 and C.7.2.1; empty if they are removed."""
TEXT_EMPTIED: Final = frozenset({tag_for_keyword("PositionReferenceIndicator")})
"""Texts outside table E.1-1 that are of type 2 where they occur in images (PS3.3 C.7.4.1)."""
TEXT_KEPT: Final = frozenset(
    tag_for_keyword(keyword)
    for keyword in ("Manufacturer", "ManufacturerModelName", "RescaleType", "ModalityLUTType")
)
"""Texts that are not in table E.1-1 and are kept if they are printable ASCII."""
BINARY_KEPT: Final = frozenset(
    tag_for_keyword(keyword)
    for keyword in (
        *("LUTData", "LUTDescriptor", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
        *("EncapsulatedPixelDataValueTotalLength", "SmallestImagePixelValue"),
        *("LargestImagePixelValue", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    )
)
"""Bytes that describe pixels."""
CODE_PATTERNS: Final = {
    "SCT": re.compile(r"[0-9]{6,18}"),
    "SRT": re.compile(r"[A-Z]-[0-9A-F]{3,6}"),
    "SNM3": re.compile(r"[A-Z]-[0-9A-F]{3,6}"),
    "DCM": re.compile(r"[0-9]{5,6}"),
}
"""Codes that are kept, by coding scheme; those of other schemes are removed with their item."""
_NUMBERS: Final = frozenset("US SS UL SL UV SV FL FD AT".split())
_DECIMAL: Final = re.compile(r" *[+-]?[0-9.]+([eE][+-]?[0-9]+)? *")
_INTEGER: Final = re.compile(r" *[+-]?[0-9]{1,12} *")
_CODE: Final = re.compile(r"[A-Z0-9 _]{0,16}")
_AGE: Final = re.compile(r"[0-9]{3}[DWMY]")
_PRINTABLE: Final = re.compile(r"[ -~]{1,64}")
SPECIFIC_CHARACTER_SET: Final = 0x00080005
"""Removed, as texts that are kept are ASCII."""
CURVES, OVERLAYS, PIXELS = 0x5000, 0x6000, 0x7FE0
"""Groups; those of curves and overlays repeat, PS3.5 7.6."""
VALUE_PATTERNS: Final = {"DS": _DECIMAL, "IS": _INTEGER, "CS": _CODE, "AS": _AGE}


@functools.cache
def actions() -> dict[int, Action]:
    """Return the actions of table E.1-1 by tag, without those of repeating groups and private ones."""
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    database = dicom_anonymization_database_selector(DATABASE)
    return {
        tag[0] << 16 | tag[1]: action
        for name, action in _ACTION_BY_LIST.items()
        for tag in database[name]
        if len(tag) == 2
    }


def may_keep(tag: int, vr: str) -> bool:
    """Return whether an attribute outside table E.1-1 may be kept, if its values are valid.

    Args:
        tag: its tag.
        vr: its value representation.
    """
    group = tag >> 16
    if group % 2 or not tag & 0xFFFF or group & 0xFF00 in (CURVES, OVERLAYS) or group <= 2:
        return False
    if not is_expected_vr(tag, vr) or tag == SPECIFIC_CHARACTER_SET:
        return False
    if vr in VALUE_PATTERNS or vr in _NUMBERS or vr in ("UI", "SQ"):
        return group < PIXELS or tag in BINARY_KEPT
    return tag in TEXT_KEPT or tag in BINARY_KEPT


def is_expected_vr(tag: int, vr: str) -> bool:
    """Return whether the dictionary has an attribute that is not retired, with this VR (PS3.6)."""
    try:
        expected, _, _, retired, _ = get_entry(tag)
    except KeyError:
        return False
    return not retired and (vr == expected or vr in expected.split(" or "))


def is_valid_text(value: str, vr: str) -> bool:
    """Return whether a value has only characters of its VR; of texts, those of printable ASCII."""
    return VALUE_PATTERNS.get(vr, _PRINTABLE).fullmatch(value) is not None


def dummy_of(vr: str) -> str | None:
    """Return the dummy value for a VR, or None to remove the attribute instead."""
    texts = dict.fromkeys(("LO", "LT", "SH", "ST", "UC", "UT", "PN", "CS"), "REMOVED")
    dates = {"DA": "19000101", "TM": "000000", "DT": "19000101000000"}
    return {**texts, **dates, "DS": "0", "IS": "0"}.get(vr)


def tags_of(keywords: tuple[str, ...]) -> frozenset[int]:
    """Return the tags of keywords."""
    return frozenset(tag for one in keywords if (tag := tag_for_keyword(one)) is not None)
