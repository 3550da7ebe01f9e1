"""Map what the header claims about the body part to the router's labels, to compare with the decision.

Body Part Examined has one of the terms of PS3.16 annex L, or whatever a technician or a vendor wrote:
other languages, views, laterality (`TORAX`, `CHEST_PA`, `LWS`, `KNEE_L`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from transforms.core.labels import (
    ABDOMEN_REGION,
    HEADER_REGIONS,
    OTHER_REGION,
    LabelSet,
)
from transforms.imaging.age import is_plausible_age
from transforms.imaging.region_words import (
    HOMOGRAPHS,
    QUALIFIERS,
    UNSPECIFIC_WORDS,
    WORDS,
    split_words,
)

MAX_DESCRIPTION: Final = 256
"""Characters of a description that are read."""
_MAX_JOINED_WORDS: Final = 3
_FIRST_CJK: Final = "\u2e80"
_VIEW_SUFFIXES: Final = ("PA", "AP", "LAT", "LL")


def claimed_region(values: Iterable[str]) -> str | None:
    """Return the region that all values of Body Part Examined claim, one of `HEADER_REGIONS`, or None.

    Each value may have a word for a body part with views, sides and positions around it. A word that is
    unknown, or words for two regions (`CHEST_TO_ABDOMEN`), claim nothing. Neither do ribs and sternum,
    which are imaged as chests or on their own.

    Args:
        values: Values of Body Part Examined, or meanings of codes of anatomic regions.
    """
    regions = [_region(value) for value in values]
    return regions[0] if regions and len(set(regions)) == 1 else None


def described_region(text: str) -> str | None:
    """Return the region that a description names, one of `HEADER_REGIONS`, or None.

    Series Description (0008,103E) and Protocol Name (0018,1030) are free text, of which only this
    region leaves the sandbox. Unknown words are ignored. Words for two regions claim nothing, and neither
    do those of `UNSPECIFIC_WORDS`.
    """
    words = [word for word in split_words(text[:MAX_DESCRIPTION]) if not _has_digit(word)]
    if not UNSPECIFIC_WORDS.isdisjoint(words):
        return None
    regions: list[str] = []
    start = 0
    while start < len(words):
        regions_here, used = _regions_at(words[start : start + _MAX_JOINED_WORDS])
        regions += regions_here
        start += used
    if "PELVIS" in words and regions and regions[0] == ABDOMEN_REGION:
        regions = [region for region in regions if region != OTHER_REGION]
    return regions[0] if len(set(regions)) == 1 else None


def header_label(
    claim: str | None, age_years: float | None, adult_from: float, labels: LabelSet
) -> str | None:
    """Return the label that corresponds to a region or to Body Part Examined (0018,0015), or None.

    A chest is adult unless a plausible age below `adult_from` years is known. Standard: PS3.16 annex L,
    table L-1.
    """
    region = claim if claim in HEADER_REGIONS else claimed_region([claim or ""])
    is_child = age_years is not None and is_plausible_age(age_years) and age_years < adult_from
    return labels.label_of_claim(region, is_child=is_child)


def _region(text: str) -> str | None:
    words = [word for word in split_words(text) if not _has_digit(word)]
    joined = WORDS.get("".join(words))
    if joined is not None:
        return joined
    parts = [word for word in words if word not in QUALIFIERS]
    if "PELVIS" in parts and WORDS.get(parts[0]) == ABDOMEN_REGION:
        parts.remove("PELVIS")
    regions = {WORDS.get(word) for word in parts}
    return regions.pop() if len(regions) == 1 else None


def _regions_at(words: list[str]) -> tuple[list[str], int]:
    """Return the regions that the first words name, and the number of words that do."""
    for number in range(len(words), 1, -1):
        if region := WORDS.get("".join(words[:number])):
            return [region], number
    word = words[0]
    if word[0] >= _FIRST_CJK:
        return _regions_in(word), 1
    if word in HOMOGRAPHS:
        return [], 1
    for suffix in ("", *_VIEW_SUFFIXES):
        if word.endswith(suffix) and (region := WORDS.get(word[: len(word) - len(suffix)])):
            return [region], 1
    return [], 1


def _regions_in(text: str) -> list[str]:
    """Return the regions named in a text without blanks, longest words first."""
    regions = []
    for word in _CJK_WORDS:
        if word in text:
            regions.append(WORDS[word])
            text = text.replace(word, " ")
    return regions


def _has_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)


_CJK_WORDS: Final = sorted((word for word in WORDS if word[0] >= _FIRST_CJK), key=len, reverse=True)
