"""Build a Structured Report about the body part of an image: TID 1500 in an Enhanced SR.

Source: PS3.16 TID 1500 (Measurement Report) and 1501, PS3.3 A.35.2 (Enhanced SR IOD). highdicom builds
the document, and is imported with the first one.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName, validate_value

from transforms.core.reasons import BY_PERSON
from transforms.imaging.uids import is_valid_uid

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept, MeasurementsAndQualitativeEvaluations

COPIED: Final = (
    # PS3.3 C.7.1.1 (Patient), C.7.2.1 (General Study), C.7.2.2 (Patient Study)
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    *("StudyDescription", "PatientAge"),
)
"""Keywords of the values of patient and study that a report has from its image."""
NEEDED: Final = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    "InstanceNumber",
)
"""Keywords of the values that a report needs to refer to its image."""
DATED: Final = ("Content", "Acquisition", "Series", "Study")
"""Events of the image, of which the first with a date dates the report."""
HEADER_KEYWORDS: Final = tuple(
    dict.fromkeys(
        (*COPIED, *NEEDED, *(f"{event}{unit}" for event in DATED for unit in ("Date", "Time")))
    )
)
MAX_VALUE: Final = 1024
"""Maximum length of a value in characters; longer ones are no value of these elements."""
SCHEME: Final = "99DICOMROUTER"
"""Coding scheme designator of the labels; private, PS3.16 8."""
MANUFACTURER: Final = "DICOM Imaging Router"
SERIES_NUMBER: Final = 9000
_UID_ROOT: Final = "2.25."
SEXES: Final = ("M", "F", "O")
NAMES: Final = ("PatientName", "ReferringPhysicianName")
OPTIONAL: Final = ("IssuerOfPatientID", "StudyDescription", "PatientAge")
"""Keywords of values that are left out if they are empty (type 3)."""
_NUMBER: Final = re.compile(r"[0-9]{1,9}")


class ReportError(Exception):
    """No report can be built from the header of an image; the message has no value of it."""


@dataclass(frozen=True, kw_only=True)
class ReportedDecision:
    """The decision about an image, as in its index row.

    Attributes:
        content_sha256: sha256 of the image's bytes, hex.
        label: Label to which the image is routed.
        region: SNOMED CT code and meaning of the region, or None if the label has none.
        confidence: Calibrated probability of the label, 0..1, or None.
        decided_by: model, policy or person.
        decided_at: Time of the decision, UTC; dates the report of an image without a date.
        model_id: Model that classified the image, or None.
        router_version: Version of the router.
    """

    content_sha256: str
    label: str
    region: tuple[str, str] | None
    confidence: float | None
    decided_by: str
    decided_at: datetime.datetime
    model_id: str | None
    router_version: str


def build_report(header: Mapping[str, str], decision: ReportedDecision) -> bytes:
    """Return a report as a DICOM file.

    Equal decisions about equal bytes give equal files: UIDs are digests, and the report has the date and
    time of the image, not those of the decision, which are in the index.

    The report has the region (SNOMED CT), the label, the confidence (Certainty of Finding, per cent),
    what decided, the algorithm with version and model, the router as device observer, and a reference to
    the image. The decision of a person has neither confidence nor algorithm.

    Args:
        header: Values of `HEADER_KEYWORDS` in the image, decoded. Invalid values of patient and study are
            left out.
        decision: The decision.

    Raises:
        ReportError: The image has no valid UIDs, or highdicom refuses its values.
    """
    image = _evidence(header)
    try:
        return _build(image, decision, _content_time(header, decision))
    except Exception as error:  # highdicom and pydicom raise many types
        raise ReportError(type(error).__name__) from error


def _build(image: Dataset, decision: ReportedDecision, content_time: tuple[str, str]) -> bytes:
    import highdicom
    from highdicom.sr import (
        CodedConcept,
        DeviceObserverIdentifyingAttributes,
        EnhancedSR,
        MeasurementReport,
        ObservationContext,
        ObserverContext,
    )
    from pydicom.sr.codedict import codes

    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=_uid("device", decision.router_version),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=decision.router_version,
        ),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("363680008", "SCT", "Radiographic imaging procedure"),
        imaging_measurements=[_finding(image, decision)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = EnhancedSR(
        evidence=[image],
        content=content[0],
        series_instance_uid=_uid("series", str(image.SeriesInstanceUID), decision.model_id),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid(
            *("report", decision.content_sha256, decision.label, repr(decision.confidence)),
            *(decision.decided_by, decision.model_id, decision.router_version),
            *(highdicom.__version__, *content_time),
        ),
        instance_number=int(image.InstanceNumber),
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        device_serial_number="0",
        software_versions=decision.router_version,
        is_complete=True,
        specific_character_set="ISO_IR 192",
        series_description="Body part",
    )
    for keyword, value in zip(("ContentDate", "ContentTime"), content_time, strict=True):
        setattr(report, keyword, value)
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        if keyword in report:
            delattr(report, keyword)
    for equipment in report.get("ContributingEquipmentSequence", []):
        del equipment.ContributionDateTime
    file = io.BytesIO()
    report.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _finding(image: Dataset, decision: ReportedDecision) -> MeasurementsAndQualitativeEvaluations:
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        FindingSite,
        Measurement,
        MeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        SourceImageForMeasurementGroup,
        TrackingIdentifier,
    )
    from pydicom.sr.codedict import codes

    is_algorithm = decision.decided_by != BY_PERSON
    region = (
        CodedConcept(decision.region[0], "SCT", decision.region[1]) if decision.region else None
    )
    evaluations = [
        QualitativeEvaluation(_private("body_part_label"), _private(decision.label)),
        QualitativeEvaluation(_private("decided_by"), _private(decision.decided_by)),
    ]
    if region is not None:
        evaluations.insert(0, QualitativeEvaluation(codes.DCM.TargetRegion, region))
    measurements = []
    if is_algorithm and decision.confidence is not None:
        percent = round(100 * decision.confidence, 4)
        measurements.append(Measurement(codes.DCM.CertaintyOfFinding, percent, codes.UCUM.Percent))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=_uid("finding", decision.content_sha256), identifier="body part"
        ),
        finding_sites=[FindingSite(region)] if region is not None else None,
        qualitative_evaluations=evaluations,
        measurements=measurements or None,
        algorithm_id=AlgorithmIdentification(
            name=MANUFACTURER,
            version=decision.router_version,
            parameters=[f"model_id={decision.model_id}"] if decision.model_id else None,
        )
        if is_algorithm
        else None,
        source_images=[SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
    )


def _private(value: str) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, SCHEME, value.replace("_", " "))


def _evidence(header: Mapping[str, str]) -> Dataset:
    """Return a data set with the valid values of a header, which are all that the report reads."""
    image = Dataset()
    for keyword in NEEDED[:4]:
        value = header.get(keyword)
        if value is None or not is_valid_uid(value):
            raise ReportError(f"{keyword} is missing or invalid")
        setattr(image, keyword, value)
    number = header.get("InstanceNumber", "").strip()
    image.InstanceNumber = number if _NUMBER.fullmatch(number) else "1"
    for keyword in COPIED:
        value = _valid_value(header, keyword)
        if value or keyword not in OPTIONAL:
            setattr(image, keyword, PersonName(value) if keyword in NAMES else value)
    return image


def _valid_value(header: Mapping[str, str], keyword: str) -> str:
    """Return a value of a header, or an empty one if it is invalid."""
    value, vr = header.get(keyword, ""), dictionary_VR(keyword)
    if len(value) > MAX_VALUE or "\\" in value or not value.isprintable():
        return ""
    if keyword == "PatientSex" and value not in SEXES:
        return ""
    if vr == "PN" and value.count("=") > 2:
        return ""
    try:
        validate_value(vr, value, RAISE)
    except (ValueError, TypeError):
        return ""
    return value


def _content_time(header: Mapping[str, str], decision: ReportedDecision) -> tuple[str, str]:
    """Return date and time of the report, DA and TM."""
    for event in DATED:
        if date := _valid_value(header, f"{event}Date"):
            return date, _valid_value(header, f"{event}Time") or "000000"
    at = decision.decided_at.astimezone(datetime.UTC)
    return at.strftime("%Y%m%d"), at.strftime("%H%M%S")


def _uid(*parts: str | None) -> str:
    """Return a UID derived from a digest, PS3.5 B.2."""
    text = "\0".join(part or "" for part in (SCHEME, *parts))
    digest = hashlib.sha256(text.encode()).digest()[:16]
    return f"{_UID_ROOT}{int.from_bytes(digest, 'big')}"
