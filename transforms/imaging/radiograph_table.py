"""Define which objects are projection radiographs; the policy can extend the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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


STANDARD_ROOT: Final = "1.2.840.10008."
"""Root of the UIDs of the standard; others are private (PS3.5 section 9 and annex B)."""
DIGITIZED: Final = "DF"
"""Conversion Type (0008,0064) of what a scanner has digitized. Standard: PS3.3 C.8.6.1."""
UNSPECIFIC_MODALITIES: Final = frozenset({None, "OT"})
"""Values of Modality that say nothing about the image."""


@dataclass(frozen=True)
class RadiographTable:
    """Criteria for projection radiographs. Standard: PS3.4 annex B, PS3.3 C.7.3.1.1.1.

    Attributes:
        sop_classes: SOP Class UIDs that are radiographs for any Modality.
        modalities: Modalities for which a secondary capture, an object without SOP Class UID, or an
            image of a private SOP Class is a radiograph. Beyond the standard's: `DR` and `XR`, which
            devices write for DX, and the retired `FD` (digitizer).
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
    modalities: frozenset[str] = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "DR", "XR", "FD"})
    excluded_image_types: frozenset[str] = frozenset({"SCREEN SAVE", "DOSE REPORT", "REPORT"})

    def exclusion_reason(
        self,
        sop_class_uid: str | None,
        modality: str | None,
        image_type: tuple[str, ...],
        *,
        conversion_type: str | None = None,
        is_image: bool = True,
    ) -> Reason | None:
        """Return why an object is not a radiograph, or None if it is one.

        Args:
            sop_class_uid: SOP Class UID.
            modality: Modality.
            image_type: Values of Image Type.
            conversion_type: Conversion Type. A digitized radiograph may have no Modality.
            is_image: Whether the object has Rows and Columns; of a private SOP Class, nothing else is
                known.
        """
        if self.excluded_image_types & {value.strip().upper() for value in image_type}:
            return Reason.IMAGE_TYPE
        if sop_class_uid in self.sop_classes:
            return None
        is_radiographic = modality in self.modalities
        if not sop_class_uid or sop_class_uid in SECONDARY_CAPTURES:
            is_digitized = conversion_type == DIGITIZED and modality in UNSPECIFIC_MODALITIES
            return None if is_radiographic or is_digitized else Reason.MODALITY
        is_private = not sop_class_uid.startswith(STANDARD_ROOT)
        return None if is_private and is_image and is_radiographic else Reason.SOP_CLASS
