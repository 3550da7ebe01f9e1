"""The closed set of body-part labels, and their SNOMED CT codes.

Source: Pham, Do, Nguyen, "DICOM Imaging Router" (2021), arXiv 2108.06490; the codes are those of
DICOM PS3.16 CID 4031 "Common Anatomic Region".
"""

from __future__ import annotations

from typing import Final, NamedTuple

ABDOMINAL: Final = "abdominal"
ADULT_CHEST: Final = "adult_chest"
PEDIATRIC_CHEST: Final = "pediatric_chest"
SPINE: Final = "spine"
OTHERS: Final = "others"

LABELS: Final = (ABDOMINAL, ADULT_CHEST, PEDIATRIC_CHEST, SPINE, OTHERS)
"""All labels, in the order of a model's outputs and of the `prob_*` columns of the index."""

CHESTS: Final = (ADULT_CHEST, PEDIATRIC_CHEST)


class Region(NamedTuple):
    """An anatomic region as (SNOMED CT code, meaning)."""

    code: str
    meaning: str


REGIONS: Final[dict[str, Region]] = {
    ABDOMINAL: Region("818981001", "Abdomen"),
    ADULT_CHEST: Region("816094009", "Chest"),
    PEDIATRIC_CHEST: Region("816094009", "Chest"),
    SPINE: Region("421060004", "Spine"),
}
"""Region of each label; `others` is not a single region and has no code."""
