"""Write the studies of selected rows as ImagingStudy resources of FHIR R4 or R5, a line of JSON each.

Source: HL7 FHIR R4 (4.0.1) and R5 (5.0.0), resource ImagingStudy. In R5, modality and laterality have
become CodeableConcept, and bodySite CodeableReference; the rest that is written here is the same. What
the index does not have is left out: dates, descriptions, referrers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pipeline.export.options import PATIENT_KEY, ExportOptions
from pipeline.export.output import Output
from pipeline.export.selection import Selection

FILE: Final = "ImagingStudy.ndjson"
R5: Final = "R5"
DCM: Final = "http://dicom.nema.org/resources/ontology/DCM"
SNOMED: Final = "http://snomed.info/sct"
UID_SYSTEM: Final = "urn:dicom:uid"
URI_SYSTEM: Final = "urn:ietf:rfc:3986"
PATIENT_SYSTEM: Final = "urn:dicom-imaging-router:patient-key"
HASH_SYSTEM: Final = "urn:dicom-imaging-router:patient-hash"
OTHER_MODALITY: Final = "OT"
"""Other (PS3.16 CID 33), where the object has none: the element is required."""
LATERALITY: Final = {"L": ("7771000", "Left"), "R": ("24028007", "Right")}
"""SNOMED CT code and display by (0020,0060)."""
_ORDER: Final = "study_instance_uid, series_instance_uid, sop_instance_uid, content_sha256"


def export_fhir(selection: Selection, output: Output, options: ExportOptions) -> int:
    """Write a resource for each study; return their number.

    Raises:
        ProcessingFailure: the storage of the export refused the write.
    """
    studies = 0
    with output.open(FILE) as file:
        by_study = itertools.groupby(
            selection.rows(_ORDER), lambda row: str(row["study_instance_uid"])
        )
        for uid, rows in by_study:
            resource = imaging_study(uid, list(rows), options)
            file.write(json.dumps(resource, ensure_ascii=False).encode() + b"\n")
            studies += 1
    output.clean()
    return studies


def imaging_study(
    uid: str, rows: Sequence[dict[str, Any]], options: ExportOptions
) -> dict[str, Any]:
    """Return the resource of a study.

    Args:
        uid: Study Instance UID.
        rows: of its objects, as `Selection` has them, in order of series and instance.
        options: of the export.
    """
    is_r5 = options.fhir_version == R5
    by_series = itertools.groupby(rows, lambda row: str(row["series_instance_uid"]))
    series = [_series(number, list(of_series), is_r5=is_r5) for number, of_series in by_series]
    modalities = dict.fromkeys(_modality(row) for row in rows)
    return {
        "resourceType": "ImagingStudy",
        "id": hashlib.sha256(uid.encode()).hexdigest()[:32],
        "identifier": [{"system": UID_SYSTEM, "value": f"urn:oid:{uid}"}],
        "status": "available",
        "modality": [_concept(DCM, code, is_concept=is_r5) for code in modalities],
        "subject": {"type": "Patient", "identifier": _patient(rows[0], options)},
        "numberOfSeries": len(series),
        "numberOfInstances": sum(one["numberOfInstances"] for one in series),
        "series": series,
    }


def _series(uid: str, rows: Sequence[dict[str, Any]], *, is_r5: bool) -> dict[str, Any]:
    instances = {
        row["sop_instance_uid"]: {
            "uid": row["sop_instance_uid"],
            "sopClass": {"system": URI_SYSTEM, "code": f"urn:oid:{row['sop_class_uid']}"},
        }
        for row in rows
    }
    series: dict[str, Any] = {
        "uid": uid,
        "modality": _concept(DCM, _most_frequent(map(_modality, rows)), is_concept=is_r5),
        "numberOfInstances": len(instances),
    }
    if region := body_site(rows):
        code, display = region
        coding = _concept(SNOMED, code, display, is_concept=is_r5)
        series["bodySite"] = {"concept": coding} if is_r5 else coding
    sides = {row["laterality"] for row in rows}
    if len(sides) == 1 and (side := LATERALITY.get(sides.pop() or "")):
        series["laterality"] = _concept(SNOMED, *side, is_concept=is_r5)
    series["instance"] = list(instances.values())
    return series


def body_site(rows: Iterable[dict[str, Any]]) -> tuple[str, str | None] | None:
    """Return the SNOMED CT code and display of the region that all rows have, or None.

    It is that of the decided label, or else of the predicted region.
    """
    found = {
        (row["region_code"] or row["predicted_region_code"], row["region_meaning"]) for row in rows
    }
    code, display = found.pop() if len(found) == 1 else (None, None)
    return (code, display) if code else None


def _patient(row: dict[str, Any], options: ExportOptions) -> dict[str, str]:
    """Return the identifier of the patient: a keyed hash, by `--split_key` unless it may be exported."""
    if PATIENT_KEY in options.identifiers and row["patient_key"]:
        return {"system": PATIENT_SYSTEM, "value": row["patient_key"]}
    return {"system": HASH_SYSTEM, "value": row["patient_hash"]}


def _modality(row: dict[str, Any]) -> str:
    return row["modality"] or OTHER_MODALITY


def _most_frequent(values: Iterable[str]) -> str:
    (value, _), *_ = Counter(sorted(values)).most_common(1)
    return value


def _concept(
    system: str, code: str, display: str | None = None, *, is_concept: bool
) -> dict[str, Any]:
    coding = {"system": system, "code": code}
    if display:
        coding["display"] = display
    return {"coding": [coding]} if is_concept else coding
