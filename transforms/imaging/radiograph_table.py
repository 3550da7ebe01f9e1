"""What counts as a projection radiograph: one table, which the policy may extend."""

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
    """The table. Standard: SOP Classes of PS3.4 annex B, Modality of PS3.3 C.7.3.1.1.1.

    Attributes:
        sop_classes: always radiographs, whatever the Modality says.
        modalities: make a secondary capture, or an object without SOP Class, a radiograph.
        excluded_image_types: values of Image Type that say it is none after all.
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

    def uri_problem(
        self, sop_class_uid: str | None, modality: str | None, image_type: tuple[str, ...]
    ) -> Reason | None:
        """Return why an object is no radiograph, or None where it is one."""
        if self.excluded_image_types & {value.strip().upper() for value in image_type}:
            return Reason.IMAGE_TYPE
        if sop_class_uid in self.sop_classes:
            return None
        if not sop_class_uid or sop_class_uid in SECONDARY_CAPTURES:
            return None if modality in self.modalities else Reason.MODALITY
        return Reason.SOP_CLASS
