"""Map Body Part Examined to the router's labels, for comparison with the decision."""

from __future__ import annotations

from typing import Final

from transforms.core.labels import ABDOMINAL, ADULT_CHEST, CHESTS, OTHERS, PEDIATRIC_CHEST, SPINE
from transforms.imaging.age import is_plausible_age

_CHEST: Final = frozenset({"CHEST", "THORAX", "LUNG", "CHESTTORAX"})
_LABELS: Final[dict[str, str]] = {
    **dict.fromkeys(("ABDOMEN", "ABDOMENPELVIS", "KUB"), ABDOMINAL),
    **dict.fromkeys(
        (
            "SPINE CSPINE TSPINE LSPINE SSPINE CTSPINE TLSPINE LSSPINE WHOLESPINE "
            "CERVICALSPINE THORACICSPINE LUMBARSPINE LUMBOSACRALSPINE COCCYX"
        ).split(),
        SPINE,
    ),
    **dict.fromkeys(
        (
            "SKULL HEAD JAW MANDIBLE MAXILLA ZYGOMA NOSE SINUS TMJ ORBIT FACE TEETH TOOTH DENTAL "
            "SHOULDER CLAVICLE SCAPULA HUMERUS ARM UPPERARM ELBOW FOREARM WRIST HAND FINGER THUMB "
            "PELVIS HIP SIJOINT FEMUR THIGH KNEE PATELLA LEG LOWERLEG TIBIA FIBULA ANKLE FOOT TOE "
            "CALCANEUS HEEL EXTREMITY UPPEREXTREMITY LOWEREXTREMITY BREAST"
        ).split(),
        OTHERS,
    ),
}


def header_label(
    body_part_examined: str | None, age_years: float | None, adult_from: float
) -> str | None:
    """Return the label that corresponds to Body Part Examined (0018,0015), or None.

    A chest is adult unless a plausible age below `adult_from` years is known. Standard: PS3.16 annex L,
    table L-1.
    """
    term = "".join((body_part_examined or "").upper().split()).replace("-", "").replace("_", "")
    if term in _CHEST:
        is_child = age_years is not None and is_plausible_age(age_years) and age_years < adult_from
        return PEDIATRIC_CHEST if is_child else ADULT_CHEST
    return _LABELS.get(term)


def agrees(header: str | None, decided: str) -> bool | None:
    """Return whether two labels denote the same region; None if the header has no label.

    Adult and pediatric chest are one region.
    """
    if header is None:
        return None
    return header == decided or (header in CHESTS and decided in CHESTS)
