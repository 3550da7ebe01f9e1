"""The policy: what is routed, what is left for a person, and where it goes. Data and one function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

from transforms.core.errors import UsageError
from transforms.core.labels import ADULT_CHEST, CHESTS, LABELS, PEDIATRIC_CHEST
from transforms.core.reasons import Reason
from transforms.imaging.header import MAX_PLAUSIBLE_AGE_YEARS, is_plausible_age
from transforms.imaging.radiograph_table import RadiographTable
from transforms.imaging.uids import is_valid_uid
from transforms.lake.layout import REVIEW, SINKS
from transforms.storage.schemes import is_local, uri_problem

TOP_LEVEL: Final = (
    "thresholds", "ood_threshold", "min_long_side", "age", "sinks", "radiographs",
)  # fmt: skip
FOLLOW_AGE: Final = "route"
EVEN: Final = 0.5


class PolicyError(UsageError):
    """The policy file cannot be used; the message lists every error in it."""


@dataclass(frozen=True)
class Policy:
    """What decides, beside the model.

    Attributes:
        thresholds: least confidence per label, 0..1; a label not named takes the bundle's.
        ood_threshold: highest OOD score that is routed; None takes the bundle's.
        min_long_side: least Rows or Columns, whichever is larger, of a film that is routed; pixels.
        adult_from_years: age from which a chest is an adult's.
        age_contradiction: probability of the other chest, among both, from which the pixels
            contradict the age; 0.5..1.
        on_age_contradiction: "route" follows the age all the same, where the confidence suffices;
            "review" leaves it to a person. The row says so either way.
        sinks: roots of sinks that stand outside the lake.
        radiographs: what counts as a projection radiograph.
    """

    thresholds: dict[str, float] = field(default_factory=dict)
    ood_threshold: float | None = None
    min_long_side: int = 64
    adult_from_years: float = 18.0
    age_contradiction: float = 0.98
    on_age_contradiction: str = FOLLOW_AGE
    sinks: dict[str, str] = field(default_factory=dict)
    radiographs: RadiographTable = field(default_factory=RadiographTable)

    def with_defaults(self, thresholds: Mapping[str, float], ood_threshold: float) -> Policy:
        """Fill in what the file left to the model bundle."""
        ood = ood_threshold if self.ood_threshold is None else self.ood_threshold
        return replace(self, thresholds={**thresholds, **self.thresholds}, ood_threshold=ood)


@dataclass(frozen=True)
class Decision:
    """What a policy makes of a prediction.

    Attributes:
        destination: a label or "review".
        predicted_label: label of the highest probability.
        decided_label: the label, after the age had its say; equal to destination if routed.
        confidence: probability of what was decided.
        reason: why.
    """

    destination: str
    predicted_label: str
    decided_label: str
    confidence: float
    reason: Reason


def decide(
    probabilities: Sequence[float],
    ood_score: float,
    policy: Policy,
    *,
    age_years: float | None,
    long_side: int,
) -> Decision:
    """Decide one film.

    Args:
        probabilities: one per label, in order of `LABELS`, calibrated, sum 1.
        ood_score: higher is less like the training films.
        policy: with thresholds for every label.
        age_years: from the header. A plausible one settles adult or pediatric where both chests
            together are the likeliest.
        long_side: Rows or Columns, whichever is larger; pixels.
    """
    by_label = dict(zip(LABELS, probabilities, strict=True))
    predicted = max(LABELS, key=lambda label: by_label[label])
    label, confidence, reason = predicted, by_label[predicted], Reason.CONFIDENT
    if age_years is not None and is_plausible_age(age_years):
        chest = min(1.0, sum(by_label[one] for one in CHESTS))
        if chest >= max(by_label[other] for other in LABELS if other not in CHESTS):
            label = ADULT_CHEST if age_years >= policy.adult_from_years else PEDIATRIC_CHEST
            contradicted = chest - by_label[label] >= policy.age_contradiction * chest
            confidence = chest
            reason = Reason.AGE_CONTRADICTED if contradicted else Reason.SETTLED_BY_AGE
    if long_side < policy.min_long_side:
        return Decision(REVIEW, predicted, label, confidence, Reason.TOO_SMALL)
    if policy.ood_threshold is not None and ood_score > policy.ood_threshold:
        return Decision(REVIEW, predicted, label, confidence, Reason.OUT_OF_DISTRIBUTION)
    is_contradicted = reason == Reason.AGE_CONTRADICTED
    if confidence < policy.thresholds[label]:
        low = reason if is_contradicted else Reason.LOW_CONFIDENCE
        return Decision(REVIEW, predicted, label, confidence, low)
    if is_contradicted and policy.on_age_contradiction == REVIEW:
        return Decision(REVIEW, predicted, label, confidence, reason)
    return Decision(label, predicted, label, confidence, reason)


def parse_policy(text: str) -> Policy:
    """Read a policy file.

    Raises:
        PolicyError: with every error in the file.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolicyError(f"no valid YAML: {error}") from error
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise PolicyError("the policy must be a mapping")
    errors: list[str] = _unknown(document, TOP_LEVEL, "")
    thresholds = _mapping(document, "thresholds", errors)
    errors += _unknown(thresholds, LABELS, "thresholds.")
    for label, value in thresholds.items():
        if not _is_number(value) or not 0 <= value <= 1:
            errors.append(f"thresholds.{label}: must be a number in 0..1")
    ood = document.get("ood_threshold")
    if ood is not None and not _is_number(ood):
        errors.append("ood_threshold: must be a number")
    min_long_side = document.get("min_long_side", Policy.min_long_side)
    if not isinstance(min_long_side, int) or isinstance(min_long_side, bool) or min_long_side < 1:
        errors.append("min_long_side: must be a whole number of at least 1")
    age = _mapping(document, "age", errors)
    errors += _unknown(age, ("adult_from_years", "contradiction", "on_contradiction"), "age.")
    adult_from = age.get("adult_from_years", Policy.adult_from_years)
    if not _is_number(adult_from) or not 0 < adult_from < MAX_PLAUSIBLE_AGE_YEARS:
        errors.append("age.adult_from_years: must be a number above 0 and below 120")
    contradiction = age.get("contradiction", Policy.age_contradiction)
    if not _is_number(contradiction) or not EVEN < contradiction <= 1:
        errors.append("age.contradiction: must be a number above 0.5 and at most 1")
    on_contradiction = age.get("on_contradiction", Policy.on_age_contradiction)
    if on_contradiction not in (FOLLOW_AGE, REVIEW):
        errors.append(f"age.on_contradiction: must be {FOLLOW_AGE} or {REVIEW}")
    sinks = _mapping(document, "sinks", errors)
    errors += _unknown(sinks, SINKS, "sinks.")
    for sink, root in sinks.items():
        if not isinstance(root, str) or (is_local(root) and not root.startswith("/")):
            errors.append(f"sinks.{sink}: must be an absolute local path, gs:// or s3://")
        elif why := uri_problem(root):
            errors.append(f"sinks.{sink}: {why}")
    table = _radiographs(_mapping(document, "radiographs", errors), errors)
    if errors:
        raise PolicyError("; ".join(errors))
    return Policy(
        thresholds={label: float(value) for label, value in thresholds.items()},
        ood_threshold=None if ood is None else float(ood),
        min_long_side=min_long_side,
        adult_from_years=float(adult_from),
        age_contradiction=float(contradiction),
        on_age_contradiction=on_contradiction,
        sinks=dict(sinks),
        radiographs=table,
    )


def _radiographs(section: dict[str, Any], errors: list[str]) -> RadiographTable:
    """Lists under `radiographs` extend the defaults; `excluded_image_types` replaces them."""
    keys = ("sop_classes", "modalities", "excluded_image_types")
    errors += _unknown(section, keys, "radiographs.")
    lists: dict[str, frozenset[str]] = {}
    for key in keys:
        values = section.get(key, [])
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            errors.append(f"radiographs.{key}: must be a list of strings")
            values = []
        lists[key] = frozenset(value.strip().upper() for value in values)
    errors += [
        f"radiographs.sop_classes: {uid!r} is no UID"
        for uid in sorted(lists["sop_classes"])
        if not is_valid_uid(uid)
    ]
    default = RadiographTable()
    return RadiographTable(
        sop_classes=default.sop_classes | lists["sop_classes"],
        modalities=default.modalities | lists["modalities"],
        excluded_image_types=lists["excluded_image_types"]
        if "excluded_image_types" in section
        else default.excluded_image_types,
    )


def _mapping(document: dict[str, Any], key: str, errors: list[str]) -> dict[str, Any]:
    section = document.get(key, {})
    if isinstance(section, dict):
        return section
    errors.append(f"{key}: must be a mapping")
    return {}


def _unknown(section: Mapping[str, Any], known: Sequence[str], prefix: str) -> list[str]:
    return [
        f"{prefix}{key}: unknown; known are {', '.join(known)}"
        for key in section
        if key not in known
    ]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
