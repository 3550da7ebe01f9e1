"""Combine what a header claims with the probabilities of the pixels.

Each element that claims something is a source of evidence of limited reliability, described by a
confusion matrix P(claim | label) for each manufacturer. `transforms.lake.header_reliability` counts how
often confident pixels and claims of a lake occur together; here the counts become probabilities by
Dirichlet smoothing towards the counts of all manufacturers, and those towards a prior, and naive Bayes
combines them with the pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeAlias

from transforms.core.labels import DEFAULT_LABELS, HEADER_REGIONS, LabelDefinition, LabelSet
from transforms.imaging.age import is_plausible_age

REGION_SOURCES: Final = (
    "body_part_region",
    "coded_region",
    "series_description_region",
    "protocol_name_region",
)
"""Sources that claim a region, named like columns of the index."""
VIEW_SOURCE: Final = "view_position"
AGE_SOURCE: Final = "patient_age_years"
CLAIMS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(REGION_SOURCES, HEADER_REGIONS),
    VIEW_SOURCE: ("PA", "AP", "LATERAL", "OTHER"),
    AGE_SOURCE: ("CHILD", "ADULT"),
}
"""What each source can claim."""
VIEWS: Final = {
    "PA": "PA",
    "AP": "AP",
    **dict.fromkeys(("LL", "RL", "LAT", "LATERAL", "LLAT", "RLAT"), "LATERAL"),
}
"""Claims by value of View Position (0018,5101); any other value claims OTHER."""
CHILD_BELOW_YEARS: Final = 18.0
PRIOR_RELIABILITY: Final = 0.85
"""P(claim of the right region | label) where a lake has no data: audits found 15 % wrong."""
PRIOR_OBJECTS: Final = 50.0
"""Weight of the prior, and of all manufacturers against one, in objects of a label."""
MIN_PROBABILITY: Final = 0.01
"""Lower limit of P(claim | label), so that no claim excludes a label."""

Counts: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]
"""Number of objects by source, manufacturer ("" for all), label and claim."""


@dataclass(frozen=True)
class HeaderClaims:
    """What a header claims, as in the columns of the index of these names."""

    body_part_region: str | None = None
    coded_region: str | None = None
    series_description_region: str | None = None
    protocol_name_region: str | None = None
    view_position: str | None = None
    patient_age_years: float | None = None
    manufacturer: str | None = None

    def by_source(self) -> dict[str, str]:
        """Return the claims, one of `CLAIMS[source]` each, without sources that claim nothing."""
        claims = {
            source: claim
            for source in REGION_SOURCES
            if (claim := getattr(self, source)) in CLAIMS[source]
        }
        if self.view_position:
            claims[VIEW_SOURCE] = view_claim(self.view_position)
        if self.patient_age_years is not None and is_plausible_age(self.patient_age_years):
            claims[AGE_SOURCE] = "CHILD" if self.patient_age_years < CHILD_BELOW_YEARS else "ADULT"
        return claims


def view_claim(view_position: str) -> str:
    """Return the claim of a value of View Position."""
    return VIEWS.get(view_position, "OTHER")


def manufacturer_key(manufacturer: str | None) -> str:
    """Return the name under which a manufacturer is counted; "" if there is none."""
    return " ".join((manufacturer or "").upper().split())


@dataclass(frozen=True)
class HeaderReliability:
    """How reliable the claims of headers are; the prior if `counts` is empty.

    Attributes:
        generation: 0 for the prior, else the number of times that the lake has been counted.
        index_rows: rows of the index when it was counted.
        objects: objects with confident pixels, or labels of persons, that were counted.
        counts: objects with a claim.
    """

    generation: int = 0
    index_rows: int = 0
    objects: int = 0
    counts: Counts = field(default_factory=dict)

    @cached_property
    def reliability_id(self) -> str:
        """Digest of the counts; 16 hex digits."""
        text = json.dumps(self.counts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def combine(
        self,
        probabilities: Sequence[float],
        header: HeaderClaims,
        labels: LabelSet = DEFAULT_LABELS,
    ) -> list[float] | None:
        """Return the probabilities of labels by pixels and header together; None if no region is claimed.

        Elements of one header are often filled from one entry of a worklist: those that claim a region
        count as one source, by the geometric mean of their likelihoods. View and age are two more, and
        decide nothing alone.

        Args:
            probabilities: calibrated probabilities of the pixels in order of the labels; their sum is 1.
            header: what the header claims.
            labels: of the model.
        """
        key = manufacturer_key(header.manufacturer)
        regions: list[tuple[float, ...]] = []
        evidence: list[tuple[float, ...]] = []
        for source, claim in header.by_source().items():
            logs = self.log_likelihoods(source, key, claim, labels)
            (regions if source in REGION_SOURCES else evidence).append(logs)
        if not regions:
            return None
        evidence.append(tuple(sum(logs) / len(regions) for logs in zip(*regions, strict=True)))
        weights = [
            probability * math.exp(sum(logs))
            for probability, logs in zip(probabilities, zip(*evidence, strict=True), strict=True)
        ]
        total = sum(weights)
        return [weight / total for weight in weights] if total > 0 else None

    def log_likelihoods(
        self, source: str, manufacturer: str, claim: str, labels: LabelSet = DEFAULT_LABELS
    ) -> tuple[float, ...]:
        """Return log P(claim | label) in order of the labels.

        Args:
            source: one of `CLAIMS`.
            manufacturer: as of `manufacturer_key`.
            claim: one of `CLAIMS[source]`.
            labels: of the model.
        """
        known = self.counts.get(source, {})
        key = (source, manufacturer if manufacturer in known else "", claim, labels)
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = tuple(math.log(p) for p in self._likelihoods(*key))
        return found

    @cached_property
    def _cache(self) -> dict[tuple[str, str, str, LabelSet], tuple[float, ...]]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def _likelihoods(
        self, source: str, manufacturer: str, claim: str, labels: LabelSet
    ) -> list[float]:
        counts = self.counts.get(source, {})
        overall, own = counts.get("", {}), counts.get(manufacturer, {}) if manufacturer else {}
        found = []
        for label in labels.labels:
            probability = _smoothed(
                overall.get(label.name, {}), claim, self._prior(source, label, claim)
            )
            if manufacturer:
                probability = _smoothed(own.get(label.name, {}), claim, probability)
            found.append(max(probability, MIN_PROBABILITY))
        return found

    def _prior(self, source: str, label: LabelDefinition, claim: str) -> float:
        """Return P(claim | label) without data: of a view or an age the same for all labels."""
        if source in REGION_SOURCES and label.header_region is None:
            return 1 / len(HEADER_REGIONS)
        if source in REGION_SOURCES:
            wrong = (1 - PRIOR_RELIABILITY) / (len(HEADER_REGIONS) - 1)
            return PRIOR_RELIABILITY if claim == label.header_region else wrong
        overall = self.counts.get(source, {}).get("", {})
        claims = CLAIMS[source]
        total = sum(sum(by_claim.values()) for by_claim in overall.values())
        number = sum(by_claim.get(claim, 0) for by_claim in overall.values())
        return (number + 1) / (total + len(claims))

    def summary(self, labels: LabelSet = DEFAULT_LABELS) -> dict[str, Any]:
        """Return for the run summary how often sources claim the right region, by manufacturer.

        Args:
            labels: of the model.
        """
        return {
            "reliability_id": self.reliability_id,
            "generation": self.generation,
            "index_rows": self.index_rows,
            "objects": self.objects,
            "agreement": {
                source: {
                    name or "all": _agreement(by_label, labels)
                    for name, by_label in by_manufacturer.items()
                }
                for source, by_manufacturer in self.counts.items()
                if source in REGION_SOURCES
            },
        }


def _smoothed(by_claim: Mapping[str, int], claim: str, expected: float) -> float:
    """Return P(claim) by counts and an expectation of the weight of `PRIOR_OBJECTS`."""
    return (by_claim.get(claim, 0) + PRIOR_OBJECTS * expected) / (
        sum(by_claim.values()) + PRIOR_OBJECTS
    )


def _agreement(by_label: Mapping[str, Mapping[str, int]], labels: LabelSet) -> dict[str, float]:
    regions = {label: labels.header_region_of(label) for label in by_label}
    total = sum(sum(by_label[label].values()) for label, region in regions.items() if region)
    right = sum(by_label[label].get(region, 0) for label, region in regions.items() if region)
    return {"objects": total, "agree": round(right / max(1, total), 4)}
