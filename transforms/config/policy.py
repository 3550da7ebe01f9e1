"""The policy: rules that turn a prediction into a decision to route an image or to review it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from transforms.config.derivation import Derivation
from transforms.config.expectations import Expectations
from transforms.config.retention import Retention
from transforms.core.choices import ALL_THUMBNAILS, REVIEW_THUMBNAILS
from transforms.core.labels import DEFAULT_LABELS, REVIEW, AgeGroups, LabelSet
from transforms.core.reasons import Reason
from transforms.imaging.age import is_plausible_age
from transforms.imaging.header_evidence import HeaderClaims, HeaderReliability
from transforms.imaging.radiograph_table import RadiographTable
from transforms.lake.table_settings import TableSettings
from transforms.lake.view_columns import Views

POLICY_ID_LENGTH: Final = 16
MIN_COMBINED_CONFIDENCE: Final = 0.95
MAX_COMBINED_CONFIDENCE: Final = 0.99
"""Limits of the probability by pixels and header together from which a header decides: the label's
threshold (its age threshold where an age chooses it), which is for pixels alone, within these limits."""
MIN_VIEW_CONFIDENCE: Final = 0.9
"""Probability from which the label of a view counts against that of the other one."""
OFF: Final = "off"
SHOW: Final = "show"
ON: Final = "on"
HeaderEvidence: TypeAlias = Literal["off", "show", "on"]
"""Values of the policy key `header_evidence`."""


@dataclass(frozen=True)
class ModelLimits:
    """What a model bundle says about decisions, where the policy says nothing.

    Attributes:
        thresholds: minimum confidence by label, 0..1; names every label.
        ood_threshold: maximum OOD score of a routed image.
        label_set: labels of the model.
        age_thresholds: minimum of the summed probabilities of the age groups, by the one that an age
            chooses, 0..1; a label that is absent has its threshold.
    """

    thresholds: Mapping[str, float]
    ood_threshold: float
    label_set: LabelSet = DEFAULT_LABELS
    age_thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """The rules that turn a prediction into a decision.

    Attributes:
        thresholds: minimum confidence by label, 0..1; an absent label has the bundle's threshold.
        age_thresholds: the same for images whose patient's age chooses the label, of which the
            confidence is the sum of both age groups; an absent label has the threshold that the policy
            states, or else the bundle's.
        ood_threshold: maximum OOD score of a routed image; None takes the bundle's.
        min_long_side: minimum of the larger of Rows and Columns of a routed image, in pixels.
        adult_from_years: minimum age of an adult chest, in years.
        age_contradiction: minimum probability of the other chest label, relative to both, with which the
            pixels contradict the age; 0.5..1.
        on_age_contradiction: "route" to decide by age if the confidence suffices, or "review". The reason
            of the row is the contradiction in both cases.
        header_evidence: whether what the header claims decides images whose pixels leave the label open
            ("on"), is only shown in the columns `combined_label` and `combined_confidence` ("show"), or
            neither ("off").
        header_reliability: how reliable headers are in the lake; set when a run starts.
        sinks: roots of the sinks outside the lake, by sink.
        by_region: labels whose objects are in a folder by region in their sink.
        derive: how objects are derived from those of a label.
        radiographs: what counts as a projection radiograph.
        expect: what a complete run is expected to find.
        thumbnails: of which images to store a thumbnail: "all", "review" for those in review and those
            whose header disagrees with the decision, or "none".
        header_attributes: keywords of attributes that `headers/` has besides those of
            `imaging.header_attributes`.
        retention: how long objects are kept, for `retain`.
        label_set: labels of the model; set when its bundle is read.
        publish: as which tables to publish the index; None keeps what the lake has recorded.
    """

    thresholds: dict[str, float] = field(default_factory=dict)
    age_thresholds: dict[str, float] = field(default_factory=dict)
    ood_threshold: float | None = None
    min_long_side: int = 64
    adult_from_years: float = 18.0
    age_contradiction: float = 0.98
    on_age_contradiction: str = REVIEW
    header_evidence: HeaderEvidence = ON
    header_reliability: HeaderReliability = field(default_factory=HeaderReliability)
    sinks: dict[str, str] = field(default_factory=dict)
    by_region: frozenset[str] = frozenset()
    derive: dict[str, Derivation] = field(default_factory=dict)
    radiographs: RadiographTable = field(default_factory=RadiographTable)
    expect: Expectations = field(default_factory=Expectations)
    thumbnails: str = REVIEW_THUMBNAILS
    header_attributes: frozenset[str] = frozenset()
    retention: Retention = field(default_factory=Retention)
    label_set: LabelSet = DEFAULT_LABELS
    publish: TableSettings | None = None

    def with_defaults(self, model: ModelLimits) -> Policy:
        """Return the policy with the labels of a model bundle, and its limits where it has none.

        It is one object for each bundle, since its id is costly to compute.
        """
        key = (
            frozenset(model.thresholds.items()),
            frozenset(model.age_thresholds.items()),
            model.ood_threshold,
            model.label_set,
        )
        if key not in self._completed:
            stated = {
                name: self.thresholds[name]
                for name in model.age_thresholds
                if name in self.thresholds
            }
            self._completed[key] = replace(
                self,
                thresholds={**model.thresholds, **self.thresholds},
                age_thresholds={**model.age_thresholds, **stated, **self.age_thresholds},
                ood_threshold=model.ood_threshold
                if self.ood_threshold is None
                else self.ood_threshold,
                label_set=model.label_set,
            )
        return self._completed[key]

    @functools.cached_property
    def _completed(self) -> dict[object, Policy]:
        return {}

    def threshold(self, label: str, *, by_age: bool) -> float:
        """Return the minimum confidence of a label, 0..1.

        Args:
            label: of the policy.
            by_age: whether a patient's age chose it.
        """
        own = self.age_thresholds.get(label) if by_age else None
        return self.thresholds[label] if own is None else own

    def rules(self) -> dict[str, Any]:
        """Return the values that affect decisions or placement, by name; the default labels do not."""
        values = asdict(self)
        for name in ("expect", "thumbnails", "publish", "derive", "header_attributes", "retention"):
            del values[name]
        values["by_region"] = sorted(self.by_region)
        if self.own_age_thresholds:
            values["age_thresholds"] = self.own_age_thresholds
        else:
            del values["age_thresholds"]
        if self.label_set == DEFAULT_LABELS:
            del values["label_set"]
        return values

    @functools.cached_property
    def policy_id(self) -> str:
        """Digest of the values that affect decisions; 16 hex digits."""
        rules = replace(self, header_reliability=HeaderReliability()).rules()
        del rules["sinks"], rules["by_region"], rules["header_reliability"]
        if self.header_evidence == ON:
            rules["header_reliability"] = self.header_reliability.reliability_id
        text = json.dumps(rules, sort_keys=True, default=sorted)
        return hashlib.sha256(text.encode()).hexdigest()[:POLICY_ID_LENGTH]

    @property
    def own_age_thresholds(self) -> dict[str, float]:
        """The age thresholds that are not those of their labels."""
        return {
            label: value
            for label, value in self.age_thresholds.items()
            if value != self.thresholds.get(label)
        }

    @property
    def derived_roots(self) -> dict[str, str]:
        """Roots of derived objects outside the lake, by label."""
        return {label: one.root for label, one in self.derive.items() if one.root is not None}

    def stores_thumbnail(self, *, in_review: bool, header_agrees: bool | None) -> bool:
        """Return whether to store a thumbnail of an image.

        Args:
            in_review: whether the image is in review.
            header_agrees: as in the index.
        """
        if self.thumbnails == REVIEW_THUMBNAILS:
            return in_review or header_agrees is False
        return self.thumbnails == ALL_THUMBNAILS


@dataclass(frozen=True)
class Decision:
    """The decision of a policy about one image.

    Attributes:
        destination: a label or "review".
        predicted_label: label with the highest probability.
        decided_label: label after the age rule; equal to `destination` if the image is routed.
        confidence: probability of the decided label, or of both age groups if the age decided; 0..1.
        threshold: minimum confidence of the decided label, 0..1.
        reason: reason of the decision.
        by_age: whether a patient's age chose the decided label, by pixels.
        combined_label: most probable label by pixels and header together; None if the header claims
            nothing or header evidence is off.
        combined_confidence: probability of that label, 0..1, as `confidence`.
    """

    destination: str
    predicted_label: str
    decided_label: str
    confidence: float
    threshold: float
    reason: Reason
    by_age: bool
    combined_label: str | None = None
    combined_confidence: float | None = None


def decide(
    probabilities: Sequence[float],
    ood_score: float,
    policy: Policy,
    *,
    age_years: float | None,
    long_side: int,
    views: Views | None = None,
    header: HeaderClaims | None = None,
    show: bool = True,
) -> Decision:
    """Decide about one image.

    An image of two views that are confidently of different labels is reviewed. A view that leaves its
    label open contradicts nothing: it may be part of a single view that was cut by mistake.

    The header decides only images that would be reviewed for low confidence: a label whose confidence by
    pixels (and age) reaches its threshold is never changed, and neither is any other review.

    Args:
        probabilities: calibrated probabilities in order of the policy's labels; their sum is 1.
        ood_score: out-of-distribution score; higher is less like the training images.
        policy: policy with a threshold for every label.
        age_years: age in the header, or None. If the labels of the age groups together are the most
            probable, a plausible age decides between them.
        long_side: the larger of Rows and Columns, in pixels.
        views: of an image that shows two side by side; the probabilities are those of both together.
        header: what the header claims, or None to decide without it.
        show: whether the combined label and confidence are needed where the header decides nothing.
    """
    decision = _decide_by_pixels(probabilities, ood_score, policy, age_years, long_side, views)
    if header is None or policy.header_evidence == OFF:
        return decision
    if not show and (policy.header_evidence == SHOW or decision.reason != Reason.LOW_CONFIDENCE):
        return decision
    combined = policy.header_reliability.combine(probabilities, header, policy.label_set)
    if combined is None:
        return decision
    label, confidence, reason = _choose(combined, policy, age_years)
    threshold = policy.threshold(label, by_age=reason == Reason.SETTLED_BY_AGE)
    decision = replace(decision, combined_label=label, combined_confidence=confidence)
    if (
        policy.header_evidence == ON
        and decision.reason == Reason.LOW_CONFIDENCE
        and reason != Reason.AGE_CONTRADICTED
        and confidence >= _combined_threshold(threshold)
    ):
        return replace(
            decision,
            destination=label,
            decided_label=label,
            confidence=_confidence(probabilities, policy.label_set, label, reason),
            threshold=threshold,
            reason=Reason.SETTLED_BY_HEADER,
        )
    return decision


def _combined_threshold(threshold: float) -> float:
    return min(max(threshold, MIN_COMBINED_CONFIDENCE), MAX_COMBINED_CONFIDENCE)


def _decide_by_pixels(
    probabilities: Sequence[float],
    ood_score: float,
    policy: Policy,
    age_years: float | None,
    long_side: int,
    views: Views | None,
) -> Decision:
    predicted = policy.label_set.names[
        max(range(len(probabilities)), key=probabilities.__getitem__)
    ]
    label, confidence, reason = _choose(probabilities, policy, age_years)
    by_age = reason != Reason.CONFIDENT
    threshold = policy.threshold(label, by_age=by_age)
    is_contradicted = reason == Reason.AGE_CONTRADICTED
    destination = REVIEW
    if long_side < policy.min_long_side:
        reason = Reason.TOO_SMALL
    elif policy.ood_threshold is not None and ood_score > policy.ood_threshold:
        reason = Reason.OUT_OF_DISTRIBUTION
    elif views is not None and _disagree(views, policy, age_years):
        reason = Reason.VIEWS_DISAGREE
    elif confidence < threshold:
        reason = reason if is_contradicted else Reason.LOW_CONFIDENCE
    elif not is_contradicted or policy.on_age_contradiction != REVIEW:
        destination = label
    return Decision(destination, predicted, label, confidence, threshold, reason, by_age)


def _disagree(views: Views, policy: Policy, age_years: float | None) -> bool:
    """Return whether views are confidently of different labels, between which no age decides."""
    labels = {view.label for view in views}
    if len(labels) == 1 or min(view.confidence for view in views) < MIN_VIEW_CONFIDENCE:
        return False
    has_age = age_years is not None and is_plausible_age(age_years)
    return not (has_age and labels == set(policy.label_set.age_groups or ()))


def _choose(
    probabilities: Sequence[float], policy: Policy, age_years: float | None
) -> tuple[str, float, Reason]:
    """Return the label by probabilities and age, its confidence, and what chose it."""
    by_label = dict(zip(policy.label_set.names, probabilities, strict=True))
    label = max(by_label, key=by_label.__getitem__)
    groups = policy.label_set.age_groups
    if groups is None or age_years is None or not is_decided_by_age(by_label, groups, age_years):
        return label, by_label[label], Reason.CONFIDENT
    both = min(1.0, sum(by_label[one] for one in groups))
    label = groups.adult if age_years >= policy.adult_from_years else groups.child
    contradicted = both - by_label[label] >= policy.age_contradiction * both
    return label, both, Reason.AGE_CONTRADICTED if contradicted else Reason.SETTLED_BY_AGE


def is_decided_by_age(
    probabilities: Mapping[str, float], groups: AgeGroups, age_years: float
) -> bool:
    """Return whether an age chooses between the labels of the age groups.

    It does if it is plausible and both labels together are at least as probable as any other.

    Args:
        probabilities: by label, 0..1.
        groups: of the labels.
        age_years: age in the header.
    """
    if not is_plausible_age(age_years):
        return False
    both = sum(probabilities.get(label, 0.0) for label in groups)
    return both >= max(
        (p for label, p in probabilities.items() if label not in groups), default=0.0
    )


def _confidence(
    probabilities: Sequence[float], label_set: LabelSet, label: str, reason: Reason
) -> float:
    """Return the confidence of the pixels in a label: in both age groups where the age decided."""
    groups = label_set.age_groups if reason == Reason.SETTLED_BY_AGE else None
    indices = map(label_set.names.index, groups or (label,))
    return min(1.0, sum(probabilities[index] for index in indices))
