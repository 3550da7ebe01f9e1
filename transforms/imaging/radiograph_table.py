"""Define which objects are projection radiographs; the policy can extend the table."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from transforms.core.reasons import Reason

SECONDARY_CAPTURES = frozenset(
    map(
        str,
        (
            SecondaryCaptureImageStorage,
            MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
            MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
            MultiFrameTrueColorSecondaryCaptureImageStorage,
        ),
    )
)


@dataclass(frozen=True)
class RadiographTable:
    """Criteria for projection radiographs. Standard: PS3.4 annex B, PS3.3 C.7.3.1.1.1.

    Attributes:
        sop_classes: SOP Class UIDs that are radiographs for any Modality.
        modalities: Modalities for which a secondary capture, or an object without SOP Class UID, is a
            radiograph.
        excluded_image_types: Values of Image Type that exclude an object of any SOP Class.
    """

    sop_classes: frozenset[str] = frozenset(
        map(
            str,
            (
                ComputedRadiographyImageStorage,
                DigitalXRayImageStorageForPresentation,
                DigitalXRayImageStorageForProcessing,
                DigitalMammographyXRayImageStorageForPresentation,
                DigitalMammographyXRayImageStorageForProcessing,
                DigitalIntraOralXRayImageStorageForPresentation,
                DigitalIntraOralXRayImageStorageForProcessing,
            ),
        )
    )
    modalities: frozenset[str] = frozenset({"CR", "DX", "MG", "IO", "PX", "RG"})
    excluded_image_types: frozenset[str] = frozenset({"SCREEN SAVE", "DOSE REPORT", "REPORT"})

    def exclusion_reason(
        self, sop_class_uid: str | None, modality: str | None, image_type: tuple[str, ...]
    ) -> Reason | None:
        """Return why an object is not a radiograph, or None if it is one."""
        if self.excluded_image_types & {value.strip().upper() for value in image_type}:
            return Reason.IMAGE_TYPE
        if sop_class_uid in self.sop_classes:
            return None
        if not sop_class_uid or sop_class_uid in SECONDARY_CAPTURES:
            return None if modality in self.modalities else Reason.MODALITY
        return Reason.SOP_CLASS
