"""Read the regions that the elements of an object claim.

Standard: PS3.3 section 10.5 (Anatomic Region Sequence); PS3.16 CID 4031 (Common Anatomic Regions) and
table L-1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from transforms.core.labels import ABDOMEN_REGION, CHEST_REGION, OTHER_REGION, SPINE_REGION
from transforms.imaging.header_label import claimed_region, described_region

MAX_ITEMS: Final = 16
"""Items of a sequence that are read."""
_REGIONS: Final[dict[str, str]] = {
    code: region
    for region, codes in {
        CHEST_REGION: "816094009 51185008 43799004 T-D3000 39607008 T-28000",
        ABDOMEN_REGION: "818981001 113345001 818982008 416949008 T-D4000 T-D4010 T-FAB57 R-FAB57",
        SPINE_REGION: "421060004 280717001 T-D04FF 122494005 T-11501 122495006 T-11502 122496007 "
        "T-11503 54735007 T-11AD0 64688005 T-11BF0 1217257000 1217253001 1217254007 1217256009 "
        "297171002 297173001",
        OTHER_REGION: "89546000 T-11100 69536005 T-D1100 91397008 T-11196 661005 T-D1213 91609006 "
        "T-11180 70925003 T-11170 13881006 T-11166 74386004 T-11149 2095001 T-22000 53620006 "
        "T-15290 363654007 T-D14AE 16982005 T-D2220 51299004 T-12310 79601000 T-12280 85050009 "
        "T-12410 40983000 T-D8200 16953009 T-15430 14975008 T-D8500 74670003 T-15460 85562004 "
        "T-D8700 7569003 T-D8800 76505004 T-D8810 816092008 12921003 T-D6000 29836001 T-D2500 "
        "24136001 T-15710 39723000 T-15680 71341001 T-12710 68367000 T-D9100 72696002 T-D9200 "
        "64234005 T-12730 30021000 T-D9400 12611008 T-12740 87342007 T-12750 70258002 T-15750 "
        "56459004 T-D9700 80144004 T-12770 29707007 T-D9800 66019005 T-D0300 53120007 T-D8000 "
        "61685007 T-D9000 76752008 T-04000 85856004 T-15420 7844006 T-15610",
    }.items()
    for code in codes.split()
}
"""Regions by code value of SNOMED CT (SCT) and of SNOMED RT (SRT, SNM3), which do not overlap."""


class RegionClaims(NamedTuple):
    """The regions that elements claim, one of `REGIONS` each, or None.

    Attributes:
        body_part: Of Body Part Examined (0018,0015).
        coded: Of Anatomic Region Sequence (0008,2218).
        series_description: Of words in Series Description (0008,103E).
        protocol_name: Of words in Protocol Name (0018,1030).
    """

    body_part: str | None = None
    coded: str | None = None
    series_description: str | None = None
    protocol_name: str | None = None


def read_region_claims(dataset: Dataset) -> RegionClaims:
    """Return the regions that elements claim. Malformed elements claim nothing."""
    return RegionClaims(
        _or_none(_body_part, dataset),
        _or_none(_coded_region, dataset),
        _or_none(lambda ds: _described(ds.get("SeriesDescription")), dataset),
        _or_none(lambda ds: _described(ds.get("ProtocolName")), dataset),
    )


def agreed_region(body_part: str | None, coded: str | None) -> str | None:
    """Return the region that Body Part Examined and Anatomic Region Sequence claim, or None.

    If both claim one, they must agree.
    """
    claims = {body_part, coded} - {None}
    return claims.pop() if len(claims) == 1 else None


def _or_none(read: Callable[[Dataset], str | None], dataset: Dataset) -> str | None:
    try:
        return read(dataset)
    except MemoryError:
        raise
    except Exception:  # pydicom raises many types for malformed elements
        return None


def _body_part(dataset: Dataset) -> str | None:
    return claimed_region(_texts(dataset.get("BodyPartExamined")))


def _coded_region(dataset: Dataset) -> str | None:
    items = list(dataset.get("AnatomicRegionSequence") or ())[:MAX_ITEMS]
    regions = {_region_of_code(item) for item in items}
    return regions.pop() if len(regions) == 1 else None


def _described(value: object) -> str | None:
    return described_region(" ".join(_texts(value)))


def _texts(value: object) -> list[str]:
    """Return the values of an element that are text and not blank; other types may be whole sequences."""
    values = value if isinstance(value, MultiValue) else [value]
    return [text for text in values if isinstance(text, str) and text.strip()]


def _region_of_code(item: Dataset) -> str | None:
    code, meaning = item.get("CodeValue"), item.get("CodeMeaning")
    known = _REGIONS.get(code.strip().upper()) if isinstance(code, str) else None
    return known or claimed_region([meaning] if isinstance(meaning, str) else [])
