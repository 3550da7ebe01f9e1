"""The attributes of a header that `headers/` has: an allow-list.

No attribute of PS3.15 table E.1-1 is in it (a test compares), none of person names, text, dates or times,
and none whose values a person types. A policy can add others; those that identify somebody are hashed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

ATTRIBUTES: Final[dict[str, str]] = {
    "Object": (
        "SpecificCharacterSet SOPClassUID Modality ConversionType SeriesNumber InstanceNumber "
        "AcquisitionNumber PresentationIntentType QualityControlImage BurnedInAnnotation "
        "RecognizableVisualFeatures LossyImageCompression LossyImageCompressionRatio "
        "LossyImageCompressionMethod"
    ),
    "Image": (
        "ImageType SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames "
        "Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation "
        "SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit "
        "PixelAspectRatio PixelSpacing PixelSpacingCalibrationType ImagerPixelSpacing "
        "NominalScannedPixelSpacing PixelIntensityRelationship PixelIntensityRelationshipSign "
        "RescaleIntercept RescaleSlope RescaleType WindowCenter WindowWidth VOILUTFunction "
        "PresentationLUTShape"
    ),
    "Anatomy": (
        "BodyPartExamined Laterality ImageLaterality ViewPosition PatientOrientation "
        "PatientPosition AnatomicRegionSequence AnatomicRegionModifierSequence "
        "PrimaryAnatomicStructureSequence PrimaryAnatomicStructureModifierSequence "
        "ViewCodeSequence ViewModifierCodeSequence PatientOrientationCodeSequence "
        "PatientGantryRelationshipCodeSequence BodyPartThickness CompressionForce"
    ),
    "Device": (
        "Manufacturer ManufacturerModelName DetectorType DetectorConfiguration DetectorBinning "
        "DetectorElementPhysicalSize DetectorElementSpacing DetectorActiveShape "
        "DetectorActiveDimensions DetectorActiveOrigin DetectorTemperature "
        "DetectorConditionsNominalFlag ExposuresOnDetectorSinceManufactured "
        "ExposuresOnDetectorSinceLastCalibration Sensitivity CassetteOrientation CassetteSize "
        "ExposuresOnPlate RelativeXRayExposure SpatialResolution"
    ),
    "Exposure": (
        "KVP XRayTubeCurrent XRayTubeCurrentInuA XRayTubeCurrentInmA ExposureTime "
        "ExposureTimeInuS ExposureTimeInms Exposure ExposureInuAs ExposureInmAs "
        "ExposureControlMode ExposureStatus PhototimerSetting ExposureIndex TargetExposureIndex "
        "DeviationIndex EntranceDose EntranceDoseInmGy OrganDose OrganExposed "
        "ImageAndFluoroscopyAreaDoseProduct HalfValueLayer FocalSpots AnodeTargetMaterial "
        "RectificationType RadiationSetting RadiationMode"
    ),
    "Geometry": (
        "DistanceSourceToDetector DistanceSourceToPatient DistanceSourceToEntrance "
        "EstimatedRadiographicMagnificationFactor PositionerType PositionerPrimaryAngle "
        "PositionerSecondaryAngle PositionerPrimaryAngleDirection PositionerMotion "
        "DetectorPrimaryAngle DetectorSecondaryAngle TableType TableAngle FieldOfViewShape "
        "FieldOfViewDimensions FieldOfViewOrigin FieldOfViewRotation FieldOfViewHorizontalFlip "
        "CollimatorShape CollimatorLeftVerticalEdge CollimatorRightVerticalEdge "
        "CollimatorUpperHorizontalEdge CollimatorLowerHorizontalEdge CenterOfCircularCollimator "
        "RadiusOfCircularCollimator VerticesOfThePolygonalCollimator ShutterShape "
        "ShutterLeftVerticalEdge ShutterRightVerticalEdge ShutterUpperHorizontalEdge "
        "ShutterLowerHorizontalEdge"
    ),
    "Filters and grid": (
        "FilterMaterial FilterThicknessMinimum FilterThicknessMaximum Grid GridThickness "
        "GridPitch GridAspectRatio GridPeriod GridFocalDistance"
    ),
    "Codes in sequences": "CodeValue CodingSchemeDesignator CodingSchemeVersion",
}
"""Keywords (PS3.6) by subject. Of a sequence, its items have what is allowed here, too."""
HASHED: Final = frozenset(
    {
        "PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "StationName",
        "DeviceSerialNumber", "InstitutionName", "InstitutionalDepartmentName", "DetectorID",
        "RequestedProcedureID", "ScheduledProcedureStepID", "PerformedProcedureStepID",
        "ClinicalTrialSubjectID", "ClinicalTrialProtocolID", "ClinicalTrialSiteID", "PlateID",
        "CassetteID", "GantryID", "FrameOfReferenceUID", "DeviceUID",
    }
)  # fmt: skip
"""Attributes whose values are hashed with the patient key if a policy adds them; absent without one."""
ADDABLE: Final = frozenset("AS AT CS DA DS DT FD FL IS LO SH SL SS TM UI UL US".split())
"""Value representations of attributes that a policy can add: neither names, text nor bulk data."""


def tag_of(keyword: str) -> int:
    """Return the tag of a keyword of `ATTRIBUTES`."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag


@functools.cache
def allowed_tags(added: frozenset[str] = frozenset()) -> frozenset[int]:
    """Return the tags that a header may have.

    Args:
        added: keywords that the policy adds.
    """
    keywords = [name for names in ATTRIBUTES.values() for name in names.split()]
    return frozenset(map(tag_of, (*keywords, *added)))


@functools.cache
def hashed_tags() -> frozenset[int]:
    """Return the tags of `HASHED`."""
    return frozenset(map(tag_of, HASHED))


def attribute_problems(keywords: Iterable[str]) -> list[str]:
    """Return why a policy cannot add some attributes, a sentence for each."""
    problems = []
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None:
            problems.append(f"{keyword!r} is not a keyword of DICOM PS3.6")
        elif (vr := dictionary_VR(tag)) not in ADDABLE:
            problems.append(
                f"{keyword} has the value representation {vr}: names, texts, sequences and bulk data "
                "cannot be added"
            )
    return problems
