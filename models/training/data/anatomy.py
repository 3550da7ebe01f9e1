"""Anatomic regions of DICOM PS3.16 CID 4031 "Common Anatomic Region", by their names in data sets."""

from __future__ import annotations

from typing import Final

from pydicom.sr.codedict import codes

from transforms.core.labels import Region

CODE_KEYWORDS: Final = {
    "ankle": "AnkleJoint",
    "cervicothoracic_spine": "CervicoThoracicSpine",
    "dental": "JawRegion",
    "elbow": "ElbowJoint",
    "sinus": "ParanasalSinus",
    "thoracolumbar_spine": "ThoracoLumbarSpine",
    "whole_spine": "Spine",
    "wrist": "WristJoint",
}
"""Keywords of CID 4031 that are not the name of the region in camel case."""


def region_of(name: str) -> Region | None:
    """Return the region with its SNOMED CT code, or None if CID 4031 has none of the name.

    Args:
        name: lower-case words joined by underscores, such as `lumbar_spine`.
    """
    keyword = CODE_KEYWORDS.get(name, "".join(map(str.capitalize, name.split("_"))))
    code = getattr(codes.cid4031, keyword, None)
    return None if code is None else Region(code.value, code.meaning)
