"""Labels: what a model tells apart. Each model bundle carries its own; the router has a default set.

Source of the default set: Pham, Do, Nguyen, "DICOM Imaging Router" (2021), arXiv 2108.06490; its SNOMED
CT codes are those of DICOM PS3.16 CID 4031 "Common Anatomic Region".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

ABDOMINAL: Final = "abdominal"
ADULT_CHEST: Final = "adult_chest"
PEDIATRIC_CHEST: Final = "pediatric_chest"
SPINE: Final = "spine"
OTHERS: Final = "others"

LABELS: Final = (ABDOMINAL, ADULT_CHEST, PEDIATRIC_CHEST, SPINE, OTHERS)
"""The default labels, in the order of a model's outputs and of the `prob_*` columns of the index."""

CHESTS: Final = (ADULT_CHEST, PEDIATRIC_CHEST)

REVIEW: Final = "review"
NOT_XRAY: Final = "not_xray"
QUARANTINE: Final = "quarantine"
OTHER_SINKS: Final = (REVIEW, NOT_XRAY, QUARANTINE)
"""Sinks of objects without a label."""
NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""Names of labels, which are names of folders, too."""

CHEST_REGION: Final = "CHEST"
ABDOMEN_REGION: Final = "ABDOMEN"
SPINE_REGION: Final = "SPINE"
OTHER_REGION: Final = "OTHER"
HEADER_REGIONS: Final = (CHEST_REGION, ABDOMEN_REGION, SPINE_REGION, OTHER_REGION)
"""Regions that headers claim; see `imaging.region_words`."""


class Region(NamedTuple):
    """An anatomic region as (SNOMED CT code, meaning)."""

    code: str
    meaning: str


class AgeGroups(NamedTuple):
    """Two labels of one region that the patient's age tells apart."""

    child: str
    adult: str


@dataclass(frozen=True)
class LabelDefinition:
    """One label.

    Attributes:
        name: as in the index, the sinks and the policy.
        region: its anatomic region, or None if it is not a single one.
        header_region: what a right header claims about its images, one of `HEADER_REGIONS`; None if
            headers say nothing about it.
    """

    name: str
    region: Region | None = None
    header_region: str | None = None


@dataclass(frozen=True)
class LabelSet:
    """The labels of a model.

    Attributes:
        labels: in the order of the model's outputs.
        age_groups: labels that the patient's age tells apart, or None.
    """

    labels: tuple[LabelDefinition, ...]
    age_groups: AgeGroups | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the model's outputs."""
        return tuple(label.name for label in self.labels)

    @cached_property
    def sinks(self) -> tuple[str, ...]:
        """Names of all sinks."""
        return (*self.names, *OTHER_SINKS)

    def region_of(self, name: str) -> Region | None:
        """Return the anatomic region of a label; None if it has none, or is not of this set."""
        return next((label.region for label in self.labels if label.name == name), None)

    def header_region_of(self, name: str) -> str | None:
        """Return what a right header claims about images of a label, one of `HEADER_REGIONS`, or None."""
        return next((label.header_region for label in self.labels if label.name == name), None)

    def label_of_claim(self, header_region: str | None, *, is_child: bool) -> str | None:
        """Return the only label of a region that a header claims; None if there is none or several.

        Args:
            header_region: one of `HEADER_REGIONS`, or None.
            is_child: decides between the age groups.
        """
        found = [one.name for one in self.labels if one.header_region == header_region]
        if header_region is None or not found:
            return None
        if self.age_groups is not None and set(found) == set(self.age_groups):
            return self.age_groups.child if is_child else self.age_groups.adult
        return found[0] if len(found) == 1 else None

    def agree(self, header: str | None, decided: str) -> bool | None:
        """Return whether two labels denote the same region; None if the header has no label."""
        if header is None:
            return None
        groups = self.age_groups or ()
        return header == decided or (header in groups and decided in groups)

    def union(self, other: LabelSet) -> LabelSet:
        """Return a set that has the labels of another one, too."""
        added = tuple(label for label in other.labels if label.name not in self.names)
        return LabelSet(self.labels + added, self.age_groups or other.age_groups)

    def to_json(self) -> dict[str, Any]:
        """Return the set for `from_json`."""
        labels = [
            {
                "name": label.name,
                "region": None if label.region is None else label.region._asdict(),
                "header_region": label.header_region,
            }
            for label in self.labels
        ]
        groups = None if self.age_groups is None else self.age_groups._asdict()
        return {"labels": labels, "age_groups": groups}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> LabelSet:
        """Return the set in the output of `to_json`.

        Raises:
            KeyError: A value is missing.
            TypeError: A value has another type.
        """
        labels = tuple(
            LabelDefinition(
                one["name"], one["region"] and Region(**one["region"]), one["header_region"]
            )
            for one in data["labels"]
        )
        groups = data["age_groups"]
        return cls(labels, None if groups is None else AgeGroups(**groups))


CHEST: Final = Region("816094009", "Chest")
DEFAULT_LABELS: Final = LabelSet(
    (
        LabelDefinition(ABDOMINAL, Region("818981001", "Abdomen"), ABDOMEN_REGION),
        LabelDefinition(ADULT_CHEST, CHEST, CHEST_REGION),
        LabelDefinition(PEDIATRIC_CHEST, CHEST, CHEST_REGION),
        LabelDefinition(SPINE, Region("421060004", "Spine"), SPINE_REGION),
        LabelDefinition(OTHERS, None, OTHER_REGION),
    ),
    AgeGroups(child=PEDIATRIC_CHEST, adult=ADULT_CHEST),
)
"""The five labels of the paper; `others` is not a single region and has no code."""


def label_set_of(names: Iterable[str]) -> LabelSet:
    """Return a set of labels of which only the names are known: that of the router for its own labels."""
    names = tuple(names)
    if names == LABELS:
        return DEFAULT_LABELS
    return LabelSet(tuple(LabelDefinition(name) for name in names))


def sink_order(sink: str) -> tuple[int, str]:
    """Return the sort key of a sink: the default labels in their order, other labels, other sinks."""
    default = (*LABELS, *OTHER_SINKS)
    position = default.index(sink) if sink in default else len(LABELS)
    return position + (sink in OTHER_SINKS), sink


def label_problem(name: str) -> str | None:
    """Return why a text cannot be the name of a label, or None."""
    if not NAME_PATTERN.fullmatch(name):
        return "must be lower-case letters, digits and _, and begin with a letter"
    return "is the name of another sink" if name in OTHER_SINKS else None
