"""From a parsed data set to the allow-list of header values that the index may hold.

Anything not named here never leaves this module: no name, no birth date, no free text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from transforms.imaging import uids
from transforms.imaging.part10 import ParsedObject

MAX_TEXT: Final = 64
MAX_PLAUSIBLE_AGE_YEARS: Final = 120.0
CODE_STRING: Final = re.compile(r"[A-Z0-9 _-]{1,16}")
AGE_STRING: Final = re.compile(r"(\d{3})([DWMY])")
DAYS_IN: Final = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}


@dataclass(frozen=True)
class Header:
    """Header values, each None where it is missing or malformed.

    Attributes:
        image_type: values of Image Type (0008,0008).
        patient_age_years: from Patient's Age (0010,1010), else from birth and study date in whole
            years, and in parts of a year below one.
        patient_id: for the keyed hash only; it is never written.
    """

    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    transfer_syntax_uid: str | None = None
    modality: str | None = None
    image_type: tuple[str, ...] = ()
    body_part_examined: str | None = None
    view_position: str | None = None
    laterality: str | None = None
    patient_age_years: float | None = None
    patient_sex: str | None = None
    patient_id: str | None = None
    manufacturer: str | None = None
    manufacturer_model_name: str | None = None
    rows: int | None = None
    columns: int | None = None
    bits_stored: int | None = None
    photometric_interpretation: str | None = None
    number_of_frames: int | None = None


def read_header(parsed: ParsedObject) -> Header:
    """Read what the index may hold; a malformed value reads as None and stops nothing."""
    ds = parsed.dataset
    meta = ds.file_meta
    return Header(
        sop_class_uid=_uid(ds, "SOPClassUID") or _uid(meta, "MediaStorageSOPClassUID"),
        sop_instance_uid=_uid(ds, "SOPInstanceUID"),
        series_instance_uid=_uid(ds, "SeriesInstanceUID"),
        study_instance_uid=_uid(ds, "StudyInstanceUID"),
        transfer_syntax_uid=parsed.transfer_syntax_uid
        if uids.is_valid(parsed.transfer_syntax_uid)
        else None,
        modality=_code(ds, "Modality"),
        image_type=_codes(ds, "ImageType"),
        body_part_examined=_code(ds, "BodyPartExamined"),
        view_position=_code(ds, "ViewPosition"),
        laterality=_code(ds, "ImageLaterality") or _code(ds, "Laterality"),
        patient_age_years=_age_years(ds),
        patient_sex=_code(ds, "PatientSex"),
        patient_id=_value(ds, "PatientID"),
        manufacturer=_text(ds, "Manufacturer"),
        manufacturer_model_name=_text(ds, "ManufacturerModelName"),
        rows=_count(ds, "Rows"),
        columns=_count(ds, "Columns"),
        bits_stored=_count(ds, "BitsStored"),
        photometric_interpretation=_code(ds, "PhotometricInterpretation"),
        number_of_frames=_count(ds, "NumberOfFrames") or (1 if parsed.pixels else None),
    )


def years_of(age_string: str) -> float | None:
    """Return the years that an Age String (PS3.5 table 6.2-1) tells, None for anything else."""
    match = AGE_STRING.fullmatch(age_string)
    return match and round(int(match[1]) * DAYS_IN[match[2]] / DAYS_IN["Y"], 3)


def is_plausible_age(years: float | None) -> bool:
    """Whether an age may settle anything: 0 is what anonymisers write."""
    return years is not None and 0 < years <= MAX_PLAUSIBLE_AGE_YEARS


def require_uids(parsed: ParsedObject) -> None:
    """Raise `InvalidObject` unless Study, Series and SOP Instance UID are present and valid."""
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        uids.require(_get(parsed.dataset, keyword), keyword)


def _get(ds: Dataset, keyword: str) -> object:
    try:
        value = ds.get(keyword)
    except MemoryError:
        raise  # the next keyword would cost as much again
    except Exception:  # converting a malformed element raises many types
        return None
    return None if value is None else value


def _value(ds: Dataset, keyword: str) -> str | None:
    """One printable value of any length, or None.

    Only strings: a sequence, a person's name or bytes under the keyword of a text would be printed
    with all that they hold.
    """
    value = _get(ds, keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    text = value.strip(" \0") if isinstance(value, str) else ""
    return text if text and text.isprintable() else None


def _text(ds: Dataset, keyword: str) -> str | None:
    value = _value(ds, keyword)
    return value[:MAX_TEXT] if value else None


def _uid(ds: Dataset, keyword: str) -> str | None:
    value = _get(ds, keyword)
    return str(value) if isinstance(value, str) and uids.is_valid(value) else None


def _code(ds: Dataset, keyword: str) -> str | None:
    """A Code String (PS3.5 table 6.2-1); anything else could be free text and is dropped."""
    value = (_value(ds, keyword) or "").upper()
    return value if CODE_STRING.fullmatch(value) else None


def _codes(ds: Dataset, keyword: str) -> tuple[str, ...]:
    value = _get(ds, keyword)
    values = value if isinstance(value, MultiValue) else [value]
    return tuple(v for v in values if isinstance(v, str))


def _count(ds: Dataset, keyword: str) -> int | None:
    value = _get(ds, keyword)
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < 2**31 else None


def _age_years(ds: Dataset) -> float | None:
    """Age at the study. Standard: AS of PS3.5 table 6.2-1, Patient's Age of PS3.3 C.7.2.2.

    Of a PatientAge that none can have (`000Y` of anonymisers, `999Y`) the dates are asked.
    """
    told = years_of(_value(ds, "PatientAge") or "")
    if is_plausible_age(told):
        return told
    born, seen = _date(ds, "PatientBirthDate"), _date(ds, "StudyDate")
    if born is None or seen is None or born > seen:
        return told
    years = seen.year - born.year - ((seen.month, seen.day) < (born.month, born.day))
    return float(years) or round(max(1, (seen - born).days) / DAYS_IN["Y"], 3)


def _date(ds: Dataset, keyword: str) -> date | None:
    try:
        return datetime.strptime(_value(ds, keyword) or "", "%Y%m%d").date()
    except ValueError:
        return None
