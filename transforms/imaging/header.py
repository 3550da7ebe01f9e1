"""Extract the allow-listed header values of a parsed object.

No other value leaves this module: no patient name, birth date or free text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from transforms.imaging import uids
from transforms.imaging.age import age_years
from transforms.imaging.anatomic_region import read_region_claims
from transforms.imaging.part10 import ParsedObject

MAX_TEXT: Final = 64
CODE_STRING: Final = re.compile(r"[A-Z0-9 _-]{1,16}")


@dataclass(frozen=True)
class Header:
    """Header values; None if missing or malformed.

    Attributes:
        image_type: Values of Image Type (0008,0008).
        conversion_type: Conversion Type (0008,0064) of secondary captures.
        body_part_region: Region that Body Part Examined claims, as do the next three for other elements;
            see `transforms.imaging.anatomic_region`.
        patient_age_years: Above 0 and at most 120; see `transforms.imaging.age`.
        patient_id: Input of the keyed hash; never written anywhere.
    """

    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None
    series_instance_uid: str | None = None
    study_instance_uid: str | None = None
    transfer_syntax_uid: str | None = None
    modality: str | None = None
    image_type: tuple[str, ...] = ()
    conversion_type: str | None = None
    body_part_region: str | None = None
    coded_region: str | None = None
    series_description_region: str | None = None
    protocol_name_region: str | None = None
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
    """Read the allow-listed header values; a malformed value becomes None."""
    ds = parsed.dataset
    meta = ds.file_meta
    claims = read_region_claims(ds)
    return Header(
        sop_class_uid=_uid(ds, "SOPClassUID") or _uid(meta, "MediaStorageSOPClassUID"),
        sop_instance_uid=_uid(ds, "SOPInstanceUID"),
        series_instance_uid=_uid(ds, "SeriesInstanceUID"),
        study_instance_uid=_uid(ds, "StudyInstanceUID"),
        transfer_syntax_uid=parsed.transfer_syntax_uid
        if uids.is_valid_uid(parsed.transfer_syntax_uid)
        else None,
        modality=_code(ds, "Modality"),
        image_type=_codes(ds, "ImageType"),
        conversion_type=_code(ds, "ConversionType"),
        body_part_region=claims.body_part,
        coded_region=claims.coded,
        series_description_region=claims.series_description,
        protocol_name_region=claims.protocol_name,
        body_part_examined=_code(ds, "BodyPartExamined"),
        view_position=_code(ds, "ViewPosition"),
        laterality=_code(ds, "ImageLaterality") or _code(ds, "Laterality"),
        patient_age_years=age_years(lambda keyword: _number_or_text(ds, keyword)),
        patient_sex=_code(ds, "PatientSex"),
        patient_id=_first_text(ds, "PatientID"),
        manufacturer=_text(ds, "Manufacturer"),
        manufacturer_model_name=_text(ds, "ManufacturerModelName"),
        rows=_count(ds, "Rows"),
        columns=_count(ds, "Columns"),
        bits_stored=_count(ds, "BitsStored"),
        photometric_interpretation=_code(ds, "PhotometricInterpretation"),
        number_of_frames=_count(ds, "NumberOfFrames") or (1 if parsed.pixels else None),
    )


def require_uids(parsed: ParsedObject) -> None:
    """Raise `InvalidObject` unless Study, Series and SOP Instance UID are present and valid."""
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        uids.require_uid(_get(parsed.dataset, keyword), keyword)


def _get(ds: Dataset, keyword: str) -> object:
    try:
        return ds.get(keyword)
    except MemoryError:
        raise  # other keywords would fail in the same way
    except Exception:  # pydicom raises many types for malformed elements
        return None


def _first_text(ds: Dataset, keyword: str) -> str | None:
    """Return the first value as printable text, or None.

    Only `str` is accepted: an element of VR SQ, PN or OB under this keyword would expose its whole
    content if converted.
    """
    value = _get(ds, keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    text = value.strip(" \0") if isinstance(value, str) else ""
    return text if text and text.isprintable() else None


def _text(ds: Dataset, keyword: str) -> str | None:
    value = _first_text(ds, keyword)
    return value[:MAX_TEXT] if value else None


def _uid(ds: Dataset, keyword: str) -> str | None:
    value = _get(ds, keyword)
    return str(value) if isinstance(value, str) and uids.is_valid_uid(value) else None


def _code(ds: Dataset, keyword: str) -> str | None:
    """Return a Code String (VR CS, PS3.5 table 6.2-1); anything else may be free text."""
    value = (_first_text(ds, keyword) or "").upper()
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


def _number_or_text(ds: Dataset, keyword: str) -> str | None:
    """Return the first value as text, also of a Decimal String such as Patient's Weight."""
    value = _get(ds, keyword)
    return str(value) if isinstance(value, float) else _first_text(ds, keyword)
